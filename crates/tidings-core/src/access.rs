//! Who somebody is, and what that lets them do.

use tidings_protocol::{Channel, ChannelPattern, Millis, UserId};

use crate::namespaces::{Namespaces, Who};

/// Somebody whose credentials have been checked.
#[derive(Debug, Clone)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// A backend with an API key. `label` tells keys apart in limits and logs; it is not the key.
    ApiKey {
        /// A digest of the key.
        label: String,
    },
    /// The bearer of a token.
    Token(Grants),
}

/// What a token grants.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// The user it was issued to.
    pub user: Option<UserId>,
    /// The channels it lets them listen to, where a namespace asks for that.
    pub subscribe: Vec<ChannelPattern>,
    /// The channels it lets them publish to, where a namespace asks for that.
    pub publish: Vec<ChannelPattern>,
    /// Whether it stands for an operator.
    pub admin: bool,
    /// When it ends.
    pub expires_at: Option<Millis>,
}

/// A refusal. `cause` is for logs and for development; it names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Denied {
    /// Why.
    pub cause: String,
}

impl Principal {
    /// The signed-in user.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::Token(grants) => grants.user.as_ref(),
            Self::Anonymous | Self::ApiKey { .. } => None,
        }
    }

    /// When the right to a stream ends.
    pub fn expires_at(&self) -> Option<Millis> {
        match self {
            Self::Token(grants) => grants.expires_at,
            Self::Anonymous | Self::ApiKey { .. } => None,
        }
    }

    /// A backend or an operator.
    pub fn is_trusted(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::ApiKey { .. } => true,
            Self::Token(grants) => grants.admin,
        }
    }

    /// Whether they may listen to the channel.
    pub fn may_subscribe(&self, channel: &Channel, namespaces: &Namespaces) -> Result<(), Denied> {
        if channel.is_internal() {
            return Err(internal(channel));
        }
        if let Some(owner) = channel.owner() {
            // Personal channels have one rule of their own, which no key or claim lifts.
            return match self.user() {
                Some(user) if user.as_str() == owner => Ok(()),
                _ => Err(denied(format!(
                    "{channel} is a personal channel: only a token with sub = {owner:?} may listen"
                ))),
            };
        }
        let rules = &namespaces.of(channel).subscribe;
        if self.passes(rules, |grants| &grants.subscribe, channel) {
            return Ok(());
        }
        Err(denied(format!("{} may not subscribe to {channel}: its namespace lets {}", self.describe(), words(rules))))
    }

    /// Whether they may publish to the channel.
    pub fn may_publish(&self, channel: &Channel, namespaces: &Namespaces) -> Result<(), Denied> {
        if channel.is_internal() {
            // Not even backends: what stands there is taken for the server's word by every stream.
            return Err(internal(channel));
        }
        if channel.owner().is_some() {
            // What stands on a personal channel is taken for the server's word, so no rule opens it.
            return match self.is_trusted() {
                true => Ok(()),
                false => {
                    Err(denied(format!("{channel} is a personal channel: only API keys and operators may publish")))
                }
            };
        }
        let rules = &namespaces.of(channel).publish;
        if self.passes(rules, |grants| &grants.publish, channel) {
            return Ok(());
        }
        Err(denied(format!("{} may not publish to {channel}: its namespace lets {}", self.describe(), words(rules))))
    }

    /// Whether they may see and close other people's connections, and the like.
    pub fn may_administer(&self) -> Result<(), Denied> {
        match self.is_trusted() {
            true => Ok(()),
            false => Err(denied("this takes an API key, or a token with the claim tidings.admin = true".to_owned())),
        }
    }

    fn passes(&self, rules: &[Who], claim: impl Fn(&Grants) -> &Vec<ChannelPattern>, channel: &Channel) -> bool {
        self.is_trusted()
            || rules.iter().any(|who| match who {
                Who::Anyone => true,
                Who::User => self.user().is_some(),
                Who::Token => match self {
                    Self::Token(grants) => claim(grants).iter().any(|pattern| pattern.matches(channel)),
                    Self::Anonymous | Self::ApiKey { .. } => false,
                },
                Who::Nobody => false,
            })
    }

    fn describe(&self) -> String {
        match self {
            Self::Anonymous => "a client without credentials".to_owned(),
            Self::ApiKey { .. } => "an API key".to_owned(),
            Self::Token(Grants { user: Some(user), .. }) => format!("the token of user {user}"),
            Self::Token(_) => "a token without a user".to_owned(),
        }
    }
}

fn internal(channel: &Channel) -> Denied {
    denied(format!("{channel} is in the server's own namespace: nobody may name it"))
}

fn denied(cause: String) -> Denied {
    Denied { cause }
}

fn words(rules: &[Who]) -> String {
    let word = |who: &Who| match who {
        Who::Anyone => "anyone",
        Who::User => "any signed-in user",
        Who::Token => "tokens whose claim names the channel",
        Who::Nobody => "nobody but API keys",
    };
    rules.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::namespaces::Namespace;

    fn namespaces() -> Namespaces {
        let rules = |who| Namespace { subscribe: vec![who], publish: vec![who], ..Namespace::default() };
        Namespaces::new(HashMap::from([
            ("open".to_owned(), rules(Who::Anyone)),
            ("members".to_owned(), rules(Who::User)),
            ("closed".to_owned(), rules(Who::Nobody)),
        ]))
    }

    fn token(user: &str, patterns: &[&str]) -> Principal {
        let patterns: Vec<_> = patterns.iter().map(|p| ChannelPattern::parse(p).unwrap()).collect();
        Principal::Token(Grants {
            user: Some(UserId::parse(user).unwrap()),
            subscribe: patterns.clone(),
            publish: patterns,
            ..Grants::default()
        })
    }

    #[test]
    fn each_rule_lets_in_whom_it_names() {
        let namespaces = namespaces();
        let key = Principal::ApiKey { label: "k".to_owned() };
        let anonymous = Principal::Anonymous;
        let user = token("42", &["chat:*", "closed:*"]);
        for (channel, who, allowed) in [
            ("open:a", &anonymous, true),
            ("members:a", &anonymous, false),
            ("members:a", &user, true),
            ("chat:a", &anonymous, false),
            ("chat:a", &user, true),
            ("chat:a", &token("7", &["chatter:*"]), false),
            ("closed:a", &user, false),
            ("closed:a", &key, true),
        ] {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(who.may_subscribe(&channel, &namespaces).is_ok(), allowed, "subscribe {channel} {who:?}");
            assert_eq!(who.may_publish(&channel, &namespaces).is_ok(), allowed, "publish {channel} {who:?}");
        }
    }

    /// Opening `default` to anyone opened personal channels to publishers too.
    #[test]
    fn a_personal_channel_is_heard_by_its_owner_alone_and_written_by_backends_alone() {
        let open = Namespace { subscribe: vec![Who::Anyone], publish: vec![Who::Anyone], ..Namespace::default() };
        let namespaces = Namespaces::new(HashMap::from([("default".to_owned(), open)]));
        let channel = Channel::parse("user:42").unwrap();
        let key = Principal::ApiKey { label: "k".to_owned() };
        let admin = Principal::Token(Grants { admin: true, ..Grants::default() });
        assert!(token("42", &[]).may_subscribe(&channel, &namespaces).is_ok());
        for other in [token("7", &["user:*", "*"]), key.clone(), admin, Principal::Anonymous] {
            assert!(other.may_subscribe(&channel, &namespaces).is_err(), "{other:?}");
        }
        assert!(key.may_publish(&channel, &namespaces).is_ok());
        assert!(token("42", &["user:42", "*"]).may_publish(&channel, &namespaces).is_err());
        assert!(Principal::Anonymous.may_publish(&channel, &namespaces).is_err());
    }

    #[test]
    fn nobody_names_a_channel_of_the_servers_own() {
        let open = Namespace { subscribe: vec![Who::Anyone], publish: vec![Who::Anyone], ..Namespace::default() };
        let namespaces = Namespaces::new(HashMap::from([("default".to_owned(), open)]));
        let admin = Principal::Token(Grants { admin: true, ..Grants::default() });
        for who in [Principal::ApiKey { label: "k".to_owned() }, admin, token("42", &["*"]), Principal::Anonymous] {
            assert!(who.may_subscribe(&Channel::everyone(), &namespaces).is_err(), "{who:?}");
            assert!(who.may_publish(&Channel::everyone(), &namespaces).is_err(), "{who:?}");
        }
    }
}
