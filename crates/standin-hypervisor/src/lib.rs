//! The seam to hypervisors: inventory, lifecycle, configuration and the cut.
