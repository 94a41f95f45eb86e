//! What two hosts say to each other on a link: JSON control frames of [`standin_wire`], from protocol version 2 on.
//!
//! ```text
//! whoever dialled                               the other
//!   Request::Link { run, number }  ->
//!                                  <-           Reply::Linked { run }
//!   Envelope { id, call }  <->  Envelope { id, answer }      both ways, at any time, in any order
//! ```
//!
//! Ids are per direction: an answer carries the id of the call that the same side received. Every call may be asked
//! twice, when a link ends between call and answer: each is answered the same again.
//!
//! A newer peer may know more: a call that cannot be read is answered with [`Answer::Refused`], a body that is neither
//! call nor answer is passed over, and an answer that cannot be read is no answer. None of them ends the link.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use standin_model::fence::{Claim, NamedHost, Place, Role, Stance};
use standin_model::{HostId, Refusal, VmId};
use standin_wire::Control;
use uuid::Uuid;

/// The first protocol version that has links.
pub const LINKS_SINCE: u16 = 2;

/// One message on a link.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope {
    /// Which call of its direction it is, or answers.
    pub id: u64,
    /// What it says.
    pub body: Body,
}

/// A call or an answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Asks for an answer with the same id.
    Call(Call),
    /// Answers the call with this id.
    Answer(Answer),
}

/// What a host asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// What this host knows of VMs that both share: all of them when a link comes up, and each again when it changes.
    /// Answered by [`Answer::Claims`] with what the other knows of the same VMs.
    Claims(Vec<ClaimFact>),
    /// Does this VM run or live at your place? Answered by [`Answer::Ask`], from the VM itself and never from a cache.
    Ask {
        /// Which VM.
        vm: VmId,
        /// The highest claim that the asker knows.
        claim: Option<Claim>,
        /// The hosts that are asked already: whoever asks further asks none of them.
        #[serde(default)]
        seen: Vec<HostId>,
    },
    /// The asker holds this VM from now on. Answered by [`Answer::Raise`] when the claim is durable and nothing of the VM
    /// is sent any more.
    Raise {
        /// Which VM.
        vm: VmId,
        /// The asker's claim.
        claim: Claim,
        /// The answerer's VM is paused first, if it runs.
        pause: bool,
    },
    /// To a witness: what is the highest claim on this VM that was recorded with you, after this one was? Answered by
    /// [`Answer::Witness`] when the claim is durable. Without a VM, only from which records it answers.
    Witness {
        /// Which VM.
        vm: Option<VmId>,
        /// The asker's claim, to be recorded.
        #[serde(default)]
        claim: Option<Claim>,
    },
}

/// What a host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Call::Claims`].
    Claims(Vec<ClaimFact>),
    /// To [`Call::Ask`].
    Ask(Presence),
    /// To [`Call::Raise`].
    Raise(Presence),
    /// To [`Call::Witness`].
    Witness(Testimony),
    /// Not done, and nothing changed. To any call.
    Refused(Refusal),
}

/// Who holds a VM, as one host knows it, and where it is with that host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimFact {
    /// Which VM.
    pub vm: VmId,
    /// The highest claim that the teller knows.
    pub claim: Claim,
    /// Where the VM is, seen from the teller.
    pub place: Place,
    /// It ran at the teller although another host holds it, and was stopped for that. It is to be said on both hosts, and
    /// the other one may never have heard that it ran.
    #[serde(default)]
    pub ran: bool,
    /// How the teller decides about it.
    #[serde(default)]
    pub stance: Option<Stance>,
    /// How the host that is told shares it, seen from the teller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees_as: Option<Role>,
    /// The other hosts that share it with the teller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<NamedHost>,
}

/// What a witness knows of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// Which records it answers from: others when some may have been lost.
    pub records: Uuid,
    /// The highest claim on the VM among them.
    pub claim: Option<Claim>,
}

/// How a VM is with the host that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The highest claim that it knows.
    pub claim: Option<Claim>,
    /// Where the VM is, seen from it.
    pub place: Place,
    /// What the hosts behind it say: those that received the VM from it.
    #[serde(default)]
    pub further: Vec<(HostId, Place)>,
    /// How it decides about it.
    #[serde(default)]
    pub stance: Option<Stance>,
}

/// A message as it came in.
#[derive(Debug)]
pub(super) enum Received {
    /// A call, or why it cannot be read.
    Call(u64, Result<Call, String>),
    /// An answer, or why it cannot be read.
    Answer(u64, Result<Answer, String>),
    /// Something that this version does not know.
    Other,
}

#[derive(Deserialize)]
struct Raw {
    id: u64,
    body: Map<String, Value>,
}

/// Reads a message.
///
/// # Errors
/// [`standin_wire::Error::Frame`] for something that is no envelope at all.
pub(super) fn read(control: &Control) -> Result<Received, standin_wire::Error> {
    let Raw { id, mut body } = control.parse()?;
    if let Some(call) = body.remove("call") {
        return Ok(Received::Call(id, serde_json::from_value(call).map_err(short)));
    }
    if let Some(answer) = body.remove("answer") {
        return Ok(Received::Answer(id, serde_json::from_value(answer).map_err(short)));
    }
    Ok(Received::Other)
}

/// What a peer wrote may be part of the text.
fn short(error: serde_json::Error) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use standin_model::Generation;
    use standin_model::fence::WhenSilent;

    fn control(text: &str) -> Control {
        Control(Bytes::from(text.to_owned()))
    }

    #[test]
    fn messages_survive_their_json() {
        let claim = Claim { number: Generation(3), holder: HostId::random(), id: Uuid::from_u128(7) };
        let vm = VmId::random();
        let call = Call::Ask { vm, claim: Some(claim), seen: vec![claim.holder] };
        let text =
            serde_json::to_string(&Envelope { id: 5, body: Body::Call(call.clone()) }).expect("writes");
        let Received::Call(5, Ok(back)) = read(&control(&text)).expect("reads") else { panic!("{text}") };
        assert_eq!(back, call);
        let presence = Presence {
            claim: Some(claim),
            place: Place::Runs,
            further: vec![(claim.holder, Place::NotHere)],
            stance: Some(Stance {
                when_silent: WhenSilent::StartAfter(std::time::Duration::from_secs(120)),
                witness: None,
            }),
        };
        let answer = Answer::Raise(presence);
        let text =
            serde_json::to_string(&Envelope { id: 6, body: Body::Answer(answer.clone()) }).expect("writes");
        let Received::Answer(6, Ok(back)) = read(&control(&text)).expect("reads") else { panic!("{text}") };
        assert_eq!(back, answer);
    }

    #[test]
    fn what_a_newer_peer_says_is_told_apart_and_kept_short() {
        let long = format!(r#"{{"id":1,"body":{{"call":{{"{}":{{}}}}}}}}"#, "dance".repeat(1000));
        let Ok(Received::Call(1, Err(why))) = read(&control(&long)) else { panic!("it was read") };
        assert!(why.contains("unknown variant") && why.chars().count() <= 160, "{why}");
        let text = r#"{"id":2,"body":{"cancel":{}},"priority":9}"#;
        assert!(matches!(read(&control(text)), Ok(Received::Other)));
        let text = r#"{"id":3,"body":{"answer":{"ask":{"claim":null,"place":"in_transit"}}}}"#;
        assert!(matches!(read(&control(text)), Ok(Received::Answer(3, Err(_)))));
        assert!(read(&control(r#"{"body":{}}"#)).is_err());
        assert!(read(&control("dance")).is_err());
    }
}
