//! What can be wrong with a broker, in words that name the remedy.

use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

/// Why the broker can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The configuration can't be followed.
    #[error("`broker.{key}`: {problem}; {remedy}")]
    Configuration {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Nobody answers, or the connection broke.
    #[error(
        "the broker at {place} can't be reached ({problem}): is it running (`rabbitmqctl status`), and is `broker.url` its address?"
    )]
    Away {
        /// Host and port.
        place: String,
        /// What happened.
        problem: String,
    },
    /// The other side is not who it should be.
    #[error(
        "the broker at {place} shows a certificate that is not accepted ({problem}): name whoever signed it in `broker.ca-file`, \
         and the host as the certificate names it in `broker.url`; without that nothing is said to it"
    )]
    Certificate {
        /// Host and port.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// User or password are wrong, or the virtual host is not there or not the user's.
    #[error(
        "the broker at {place} lets user `{user}` not into the virtual host `{vhost}` ({problem}): look at user, password and \
         virtual host in `broker.url`; `rabbitmqctl list_permissions --vhost {vhost}` says who may"
    )]
    Refused {
        /// Host and port.
        place: String,
        /// As whom.
        user: String,
        /// Where to.
        vhost: String,
        /// The broker's words.
        problem: String,
    },
    /// The user may not do what is needed.
    #[error(
        "user `{user}` lacks a permission at the broker ({problem}): as its administrator, run `rabbitmqctl set_permissions \
         --vhost {vhost} {user} {wanted}`"
    )]
    Forbidden {
        /// Who.
        user: String,
        /// Where.
        vhost: String,
        /// The broker's words.
        problem: String,
        /// The permissions, as `rabbitmqctl` takes them.
        wanted: &'static str,
    },
    /// A queue or exchange is there, and is another than Segue's.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// Something that must be there is not.
    #[error("the broker has lost a queue ({0}); it is declared anew")]
    Lost(String),
    /// Anything else that the broker says.
    #[error("the broker says: {0}")]
    Broker(String),
    /// The store can't be asked.
    #[error("what is to be rung can't be read: {0}")]
    Store(String),
}

/// A queue or an exchange with other arguments than Segue declares it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// `queue` or `exchange`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The argument that differs.
    pub argument: String,
    /// What it has at the broker.
    pub found: String,
    /// What Segue declares.
    pub wanted: String,
    /// The virtual host.
    pub vhost: String,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name, argument, found, wanted, vhost } = self;
        write!(
            f,
            "the {kind} `{name}` is at the broker with {argument} {found}, and Segue needs {wanted}: another program or an \
             older Segue declared it. It holds bells alone, which are rung anew, so nothing is lost by removing it: "
        )?;
        if kind == "queue" {
            write!(f, "`rabbitmqctl --vhost {vhost} delete_queue {name}`")
        } else {
            // rabbitmqctl has no word for exchanges
            write!(f, "give Segue a virtual host of its own, or delete the exchange in the management page")
        }
    }
}

/// Who speaks to which broker; for what is said when it goes wrong.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) place: String,
    pub(super) user: String,
    pub(super) vhost: String,
}

/// What the user of a server may do.
pub const SERVER_PERMISSIONS: &str = r"'^segue\.' '^(segue\.|amq\.default$)' '^segue\.'";

impl Who {
    /// What an error of the client library means.
    pub(super) fn explain(&self, error: &lapin::Error) -> QueueError {
        let Self { place, user, vhost } = self.clone();
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let problem = amqp.get_message().to_string();
                match amqp.kind() {
                    AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => match mismatch(&problem, &vhost) {
                        Some(mismatch) => QueueError::Mismatch(Box::new(mismatch)),
                        None => QueueError::Broker(problem),
                    },
                    AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => QueueError::Lost(problem),
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if problem.contains("Login was refused") => {
                        QueueError::Refused { place, user, vhost, problem }
                    }
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                        QueueError::Forbidden { user, vhost, problem, wanted: SERVER_PERMISSIONS }
                    }
                    AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                        QueueError::Refused { place, user, vhost, problem }
                    }
                    _ => QueueError::Broker(problem),
                }
            }
            ErrorKind::IOError(io) if is_about_a_certificate(&io.to_string()) => {
                QueueError::Certificate { place, problem: io.to_string() }
            }
            ErrorKind::IOError(io) => QueueError::Away { place, problem: io.to_string() },
            _ => QueueError::Away { place, problem: error.to_string() },
        }
    }

    /// It did not answer in time.
    pub(super) fn silent(&self) -> QueueError {
        QueueError::Away { place: self.place.clone(), problem: "it does not answer".into() }
    }
}

fn is_about_a_certificate(problem: &str) -> bool {
    let problem = problem.to_lowercase();
    problem.contains("certificate") || problem.contains("unknownissuer")
}

/// Reads what RabbitMQ says of an argument that differs: `PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in
/// vhost '/': received the value 'quorum' of type 'longstr' but current is none`.
fn mismatch(problem: &str, vhost: &str) -> Option<Mismatch> {
    let (_, rest) = problem.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once("' for ")?;
    let (kind, rest) = rest.split_once(" '")?;
    let (name, rest) = rest.split_once("' in vhost")?;
    let (_, rest) = rest.split_once("received ")?;
    let (wanted, found) = rest.split_once(" but current is ")?;
    let plain = |text: &str| text.trim_start_matches("the value ").split(" of type ").next().unwrap_or(text).to_owned();
    Some(Mismatch {
        kind: kind.into(),
        name: name.into(),
        argument: argument.into(),
        found: plain(found),
        wanted: plain(wanted),
        vhost: vhost.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_differs_is_told_with_its_remedy() {
        let said = "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'segue.deliveries' in vhost '/': received \
                    the value '5' of type 'signedint' but current is none";
        let told = mismatch(said, "/").unwrap().to_string();
        for part in
            ["`segue.deliveries`", "x-delivery-limit none", "needs '5'", "--vhost / delete_queue segue.deliveries"]
        {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
        let said = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'segue.cancellations' in vhost 'a': received 'fanout' \
                    but current is 'direct'";
        let found = mismatch(said, "a").unwrap();
        assert_eq!((found.found.as_str(), found.wanted.as_str()), ("'direct'", "'fanout'"));
        assert_eq!(mismatch("PRECONDITION_FAILED - unknown delivery tag 3", "/"), None);
    }
}
