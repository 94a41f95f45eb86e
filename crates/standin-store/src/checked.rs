//! Small files of text that are checked: JSON for people, and under it one line with its BLAKE3 digest for programs.

/// The text with its line.
pub(crate) fn seal(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    let line = line_of(&text);
    text.extend(line.as_bytes());
    text.push(b'\n');
    text
}

fn line_of(text: &[u8]) -> String {
    format!("blake3:{}", blake3::hash(text).to_hex())
}

/// The text above its line.
///
/// # Errors
/// A sentence that says what is wrong with the file.
pub(crate) fn body(bytes: &[u8]) -> Result<&[u8], String> {
    let text = bytes.strip_suffix(b"\n").ok_or("it does not end with a line of its checksum")?;
    let cut = text.iter().rposition(|byte| *byte == b'\n').ok_or("it has no line with its checksum")? + 1;
    let (body, line) = text.split_at(cut);
    if line == line_of(body).as_bytes() { Ok(body) } else { Err("it does not match its checksum".into()) }
}
