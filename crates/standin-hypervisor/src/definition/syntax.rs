//! What the parser of a definition complains about, in one sentence for the person who wrote the file.
//! Used by [`super::VmDefinition::from_toml`].

/// The most of a wrong line that is repeated, in characters.
const LINE_SHOWN: usize = 120;

/// "line 3, column 14: invalid type ..., in `memory_mib = "many"`". Lines and columns count from 1, columns in
/// characters as editors do.
pub(super) fn describe(text: &str, error: &toml::de::Error) -> String {
    // serde speaks of Rust's types, people do not.
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    let message = message.replace("expected u64", "expected a whole number");
    let message = message.replace("expected u32", "expected a whole number");
    let Some((before, after)) = error.span().and_then(|span| text.split_at_checked(span.start)) else {
        return message;
    };
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let begun = before.rsplit('\n').next().unwrap_or_default();
    let column = begun.chars().count() + 1;
    let whole = format!("{begun}{}", after.lines().next().unwrap_or_default());
    let shown: String = whole.trim().chars().take(LINE_SHOWN).collect();
    if shown.is_empty() {
        return format!("line {line}, column {column}: {message}");
    }
    format!("line {line}, column {column}: {message}, in `{shown}`")
}
