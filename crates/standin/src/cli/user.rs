//! `standin user ...`: the users of the management API. They are a file of this host, so that no daemon is needed;
//! one that runs sees the change within a second.

use super::reason::Local;
use super::secret;
use crate::args::{Password, UserAdd, UserVerb};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::Style;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use standin_access::users::{NewUser, User, UsersError, UsersFile};
use standin_model::Refusal;
use standin_model::reason::Text;
use std::path::Path;

/// A user, for people and programs. Hashes are never shown.
#[derive(Debug, Serialize)]
struct UserView {
    /// His name.
    name: String,
    /// What he may do.
    role: &'static str,
    /// He can come by password.
    password: bool,
    /// He can come by NTLM.
    ntlm: bool,
    /// Fingerprints and subjects of his certificates.
    certificates: Vec<String>,
    /// His Kerberos principal.
    principal: Option<String>,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        Self {
            name: user.name.to_string(),
            role: user.role.as_str(),
            password: user.password.is_some(),
            ntlm: user.nt_hash.is_some(),
            certificates: user.certificates.iter().map(ToString::to_string).collect(),
            principal: user.principal,
        }
    }
}

/// `standin user`
pub(super) fn run(verb: UserVerb, config: &Config, style: Style) -> Result<(), Failure> {
    let file = UsersFile::new(config.users_file());
    match verb {
        UserVerb::Add(args) => add(&file, args, style),
        UserVerb::List => {
            let users = file.list().map_err(failure)?.into_iter().map(UserView::from).collect::<Vec<_>>();
            style.print(&users, |users| table(users))
        }
        UserVerb::Passwd { name, password, ntlm, no_ntlm } => {
            let known = file.list().map_err(failure)?;
            if !known.iter().any(|user| same(&user.name, &name)) {
                return Err(failure(UsersError::Unknown(name)));
            }
            let password = read(password, &name)?;
            let keep = if ntlm { Some(true) } else { no_ntlm.then_some(false) };
            let user = file.set_password(&name, &password, keep).map_err(failure)?;
            told(style, user, "has another password")
        }
        UserVerb::Remove { name } => {
            let user = file.remove(&name).map_err(failure)?;
            told(style, user, "is removed")
        }
    }
}

fn add(file: &UsersFile, args: UserAdd, style: Style) -> Result<(), Failure> {
    let password = if args.no_password { None } else { Some(read(args.password, &args.name)?) };
    let new = NewUser {
        name: args.name,
        role: args.role.into(),
        password,
        ntlm: args.ntlm,
        certificates: args.certificates,
        principal: args.principal,
    };
    let user = file.add(new).map_err(failure)?;
    let what = format!("is {} of this host's management API", article(user.role.as_str()));
    told(style, user, &what)
}

fn article(role: &str) -> String {
    let article = if role.starts_with(['a', 'o']) { "an" } else { "a" };
    format!("{article} {role}")
}

fn told(style: Style, user: User, what: &str) -> Result<(), Failure> {
    style.print(&UserView::from(user), |user| format!("{} {what}", user.name))
}

fn same(left: &str, right: &str) -> bool {
    standin_access::users::names::fold(left) == standin_access::users::names::fold(right)
}

/// What the user got wrong is refused; what this machine could not do has failed.
fn failure(error: UsersError) -> Failure {
    match error {
        UsersError::Io { .. } | UsersError::Mode { .. } | UsersError::Invalid { .. } => {
            Failure::Local(error.into())
        }
        UsersError::Exists(_)
        | UsersError::Unknown(_)
        | UsersError::Name(_)
        | UsersError::Refused(_)
        | UsersError::Password(_) => {
            let text = error.to_string();
            let (message, remedy) = text.split_once("; ").unwrap_or((&text, "see `standin user add --help`"));
            Refusal::from(Local::User(Text::new(message, format!("{}.", capital(remedy))))).into()
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn read(how: Password, name: &str) -> Result<String, Failure> {
    let password = match how.password_stdin {
        true => secret::from_file(Path::new("-"), "password")?,
        false => {
            secret::from_terminal("password", &format!("Password of {name}: "), true, "--password-stdin")?
        }
    };
    if password.is_empty() {
        return Err(Failure::Usage("the password is empty; give one".to_owned()));
    }
    Ok(password)
}

fn table(users: &[UserView]) -> String {
    if users.is_empty() {
        return "there are no users; standin user add NAME adds one".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(["NAME", "ROLE", "COMES BY"]);
    for user in users {
        let mut proofs = Vec::new();
        if user.password {
            proofs.push("password".to_owned());
        }
        if user.ntlm {
            proofs.push("ntlm".to_owned());
        }
        proofs.extend(user.certificates.iter().map(|certificate| format!("certificate {certificate}")));
        proofs.extend(user.principal.iter().map(|principal| format!("kerberos {principal}")));
        table.add_row([user.name.clone(), user.role.to_owned(), proofs.join("; ")]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_how_each_comes_in_and_shows_no_hash() {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path().join("users.toml"));
        assert!(table(&[]).contains("standin user add"));
        let user = NewUser {
            name: "alice".to_owned(),
            role: standin_cim::Role::Operator,
            password: Some("secret".to_owned()),
            ntlm: true,
            certificates: vec!["CN=alice".to_owned()],
            principal: Some("alice@EXAMPLE.ORG".to_owned()),
        };
        file.add(user).unwrap();
        let views: Vec<_> = file.list().unwrap().into_iter().map(UserView::from).collect();
        let text = table(&views);
        assert!(text.contains("password; ntlm; certificate CN=alice; kerberos alice@EXAMPLE.ORG"), "{text}");
        assert!(!serde_json::to_string(&views).unwrap().contains("argon2"));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let Failure::Refused(refusal) = failure(UsersError::Unknown("bob".to_owned())) else {
            panic!("it is the user's to correct");
        };
        assert_eq!(refusal.remedy, "`standin user list` shows all.");
    }

    #[test]
    fn roles_have_their_article() {
        assert_eq!(
            ["viewer", "operator", "administrator"].map(article),
            ["a viewer", "an operator", "an administrator"]
        );
    }
}
