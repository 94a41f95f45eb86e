//! Asynchronous NBD: a client with structured replies and block status, and a small read-only server.
