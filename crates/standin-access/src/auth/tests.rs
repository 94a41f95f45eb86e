use super::*;

#[test]
fn credentials_are_read_in_both_charsets_and_the_password_may_have_colons() {
    let read = |bytes: &[u8]| read_basic(&STANDARD.encode(bytes));
    assert_eq!(read("a:b:c".as_bytes()), Some(("a".to_owned(), "b:c".to_owned())));
    assert_eq!(read("a:\u{f6}".as_bytes()), Some(("a".to_owned(), "\u{f6}".to_owned())));
    assert_eq!(read(b"a:\xf6"), Some(("a".to_owned(), "\u{f6}".to_owned())));
    assert_eq!(read(b"nocolon"), None);
    assert_eq!(read_basic("***"), None);
}

#[test]
fn a_name_in_the_log_is_short_and_one_line() {
    assert_eq!(shown("a\nb\u{1b}[31m"), "a?b?[31m");
    assert_eq!(shown(&"x".repeat(500)).len(), names::MAX_NAME);
}
