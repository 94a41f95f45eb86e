use super::*;
use std::os::unix::fs::PermissionsExt as _;

fn new(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        role: Role::Operator,
        password: Some("secret".to_owned()),
        ntlm: false,
        certificates: Vec::new(),
        principal: None,
    }
}

fn scratch() -> (tempfile::TempDir, UsersFile) {
    let dir = tempfile::tempdir().unwrap();
    let file = UsersFile::new(dir.path().join("users.toml"));
    (dir, file)
}

#[test]
fn a_user_is_added_listed_given_another_password_and_removed() {
    let (_dir, file) = scratch();
    assert!(file.list().unwrap().is_empty());
    let full = NewUser {
        ntlm: true,
        certificates: vec!["CN=alice,O=Example".to_owned(), "AB".repeat(32)],
        principal: Some("alice@EXAMPLE.ORG".to_owned()),
        ..new("Alice")
    };
    let added = file.add(full).unwrap();
    assert_eq!(file.list().unwrap(), std::slice::from_ref(&added));
    assert_eq!(added.nt_hash, Some(NtHash::of("secret")));
    let changed = file.set_password("alice", "another", None).unwrap();
    assert!(changed.password.as_ref().unwrap().matches("another").unwrap());
    assert_eq!(changed.nt_hash, Some(NtHash::of("another")));
    assert_eq!(file.set_password("ALICE", "another", Some(false)).unwrap().nt_hash, None);
    file.remove("aLICE").unwrap();
    assert!(file.list().unwrap().is_empty());
    assert!(matches!(file.remove("alice"), Err(UsersError::Unknown(_))));
}

#[test]
fn the_nt_hash_is_kept_only_when_asked_for() {
    let (_dir, file) = scratch();
    file.add(new("alice")).unwrap();
    assert!(!std::fs::read_to_string(file.path()).unwrap().contains("nt_hash"));
}

#[test]
fn the_file_is_for_its_owner_only_and_one_that_is_not_is_refused() {
    let (_dir, file) = scratch();
    file.add(new("alice")).unwrap();
    let mode = std::fs::metadata(file.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = file.list().unwrap_err();
    assert!(matches!(error, UsersError::Mode { mode: 0o640, .. }), "{error}");
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn names_that_differ_in_case_only_are_one_user() {
    let (_dir, file) = scratch();
    file.add(new("alice")).unwrap();
    assert!(matches!(file.add(new("ALICE")), Err(UsersError::Exists(_))));
}

#[test]
fn users_that_could_not_come_in_or_be_named_are_refused() {
    let (_dir, file) = scratch();
    let nothing = NewUser { password: None, ..new("a") };
    assert!(matches!(file.add(nothing), Err(UsersError::Refused(_))));
    let ntlm = NewUser { password: None, ntlm: true, principal: Some("a@B".to_owned()), ..new("a") };
    assert!(matches!(file.add(ntlm), Err(UsersError::Refused(_))));
    assert!(matches!(file.add(new("a b")), Err(UsersError::Name(_))));
    let certificate = NewUser { certificates: vec!["nonsense".to_owned()], ..new("a") };
    assert!(matches!(file.add(certificate), Err(UsersError::Refused(_))));
    let empty = NewUser { password: Some(String::new()), ..new("a") };
    assert!(matches!(file.add(empty), Err(UsersError::Password(_))));
    assert!(!file.path().exists());
}

#[test]
fn a_file_with_unknown_keys_or_impossible_values_is_refused_without_showing_hashes() {
    let (_dir, file) = scratch();
    let hash = PasswordHash::of("secret").unwrap().to_phc();
    for (text, hint) in [
        ("version = 2".to_owned(), "version 2"),
        (format!("version = 1\n[[user]]\nname='a'\nrole='viewer'\npasword='{hash}'"), "pasword"),
        (format!("version = 1\n[[user]]\nname='a'\nrole='boss'\npassword='{hash}'"), "boss"),
        ("version = 1\n[[user]]\nname='a'\nrole='viewer'\nnt_hash='xyz'".to_owned(), "nt_hash"),
        (format!("version = 1\n{0}{0}", "[[user]]\nname='a'\nrole='viewer'\n"), "twice"),
        ("version = 1\n[[user]]\nname='a'\nrole='viewer'\nprincipal='alice'".to_owned(), "principal"),
    ] {
        std::fs::write(file.path(), &text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = file.list().unwrap_err().to_string();
        assert!(error.contains(hint), "{text}: {error}");
        assert!(!error.contains(&hash), "{error}");
    }
}

#[test]
fn two_commands_at_once_lose_no_user() {
    let (_dir, file) = scratch();
    std::thread::scope(|scope| {
        for index in 0..4 {
            let file = &file;
            scope.spawn(move || file.add(new(&format!("user{index}"))).unwrap());
        }
    });
    assert_eq!(file.list().unwrap().len(), 4);
}
