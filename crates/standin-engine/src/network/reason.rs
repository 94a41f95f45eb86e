//! Why failover network settings cannot be set, or did not reach the guest.

use standin_model::reason::{Reason, Text};
use standin_model::{VmName, reasons};

reasons! {
    /// Why failover network settings cannot be set, or did not reach the guest. `cards` names those that there are.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum Network {
        /// The VM has no network card that this host knows of.
        NoCard { vm: VmName } => "no_network_card", InvalidParameter;
        /// The VM has several network cards, and none was named.
        Ambiguous { vm: VmName, count: usize, cards: String } => "network_card_ambiguous", InvalidParameter;
        /// The VM has no network card of that name or address.
        UnknownCard { vm: VmName, card: String, cards: String } => "unknown_network_card", InvalidParameter;
        /// The definition that came with the newest recovery point cannot be read.
        DefinitionUnreadable { why: String } => "point_definition_unreadable", Failed;
        /// The VM of a failover could not be prepared to get its network settings.
        NotPrepared(Text) => "network_not_prepared", Failed;
        /// The disk that hands the network settings to the guest could not be made.
        NoImage { why: String } => "network_image_not_made", Failed;
        /// The guest of a failover did not take its network settings.
        NotApplied { vm: VmName, why: String } => "network_not_applied", Failed;
    }
}

impl Reason for Network {
    fn text(&self) -> Text {
        match self {
            Self::NoCard { vm } => Text::new(
                format!("VM {vm} has no network card that is known here"),
                "Give it one in its definition ([[nics]]); on the replica it is known with the first recovery point.",
            ),
            Self::Ambiguous { vm, count, cards } => Text::new(
                format!("VM {vm} has {count} network cards"),
                format!("Name one with --adapter: {cards}."),
            ),
            Self::UnknownCard { vm, card, cards } => {
                let shown: String = card.chars().take(64).collect();
                let cards = if cards.is_empty() { "It has none that is known here" } else { cards };
                Text::new(format!("VM {vm} has no network card {shown:?}"), format!("Its cards: {cards}."))
            }
            Self::DefinitionUnreadable { why } => Text::new(
                format!("the VM's definition at its newest recovery point cannot be read: {why}"),
                "Run `standin store check VM`.",
            ),
            Self::NotPrepared(Text { message, remedy }) => {
                Text::new(format!("the network settings could not be prepared: {message}."), remedy)
            }
            Self::NoImage { why } => Text::new(
                format!("the cloud-init disk with the network settings could not be made: {why}."),
                "See to the storage location, then start the VM again.",
            ),
            Self::NotApplied { vm, why } => Text::new(
                format!("the guest of VM {vm} did not get its network settings: {why}"),
                format!(
                    "The VM runs all the same; set its network in the guest, and see `standin network {vm}`."
                ),
            ),
        }
    }
}
