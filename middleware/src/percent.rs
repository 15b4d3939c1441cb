//! Percent-encoding: any bytes as readable text of one line, which can be parsed again.

use std::fmt;

/// Writes bytes: `%`, control characters, the `reserved` characters and bytes that are not UTF-8 as
/// `%` and two hexadecimal digits, anything else unchanged.
pub fn write(f: &mut fmt::Formatter<'_>, bytes: &[u8], reserved: &[char]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() || reserved.contains(&c) {
                write_encoded(f, c.encode_utf8(&mut [0; 4]).as_bytes())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        write_encoded(f, chunk.invalid())?;
    }
    Ok(())
}

/// Writes each byte as `%` and two hexadecimal digits.
pub fn write_encoded(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
}

/// The bytes that a text stands for.
///
/// # Errors
///
/// The first `%`, with up to two characters after it, that has no two hexadecimal digits.
pub fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return Err(format!("%{}", part.chars().take(2).collect::<String>()));
        };
        bytes.push(byte);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::{decode, write};

    struct Encoded<'a>(&'a [u8]);

    impl fmt::Display for Encoded<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write(f, self.0, &['?'])
        }
    }

    #[test]
    fn any_bytes_are_one_line_without_reserved_characters_and_are_decoded_to_themselves() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&all[..], "dé?%\u{85}\n".as_bytes(), b""] {
            let text = Encoded(bytes).to_string();
            assert!(!text.contains('?') && !text.contains(char::is_control), "{text}");
            assert_eq!(decode(&text).as_deref(), Ok(bytes), "{text}");
        }
        assert_eq!(Encoded("dé?".as_bytes()).to_string(), "dé%3F");
    }

    #[test]
    fn a_percent_sign_without_two_digits_is_an_error_that_quotes_it() {
        for (text, quoted) in
            [("100%", "%"), ("%+1", "%+1"), ("%é", "%é"), ("%4", "%4"), ("%41%xyz", "%xy")]
        {
            assert_eq!(decode(text), Err(quoted.to_owned()), "{text}");
        }
    }
}
