//! The little of DER (X.690) that certificates are put together with where no builder keeps what is asked for.

/// An element of this tag.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let used: Vec<u8> = length.iter().copied().skip_while(|byte| *byte == 0).collect();
    match content.len() {
        0..0x80 => out.push(used.first().copied().unwrap_or(0)),
        _ => {
            out.push(0x80 | used.len() as u8);
            out.extend_from_slice(&used);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A SEQUENCE of these elements.
pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

/// A BIT STRING of whole bytes.
pub fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(3, &[&[0], bytes].concat())
}

/// The first element of `bytes` and what follows it.
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(header(bytes)?.checked_add(content(bytes)?.len())?)
}

/// What is inside the first element of `bytes`.
pub fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (start, first) = (header(bytes)?, usize::from(*bytes.get(1)?));
    let length = match first {
        0..0x80 => first,
        _ => bytes[2..start].iter().fold(0usize, |length, byte| (length << 8) | usize::from(*byte)),
    };
    bytes.get(start..start.checked_add(length)?)
}

/// How many bytes tag and length take.
fn header(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.get(1)?;
    let header = if first < 0x80 { 2 } else { 2 + usize::from(first & 0x7f) };
    (bytes.len() >= header && header <= 2 + size_of::<u32>()).then_some(header)
}

/// An X.509 name: the organizations in their order, then the common name.
pub fn name(organizations: &[&str], common: &str) -> Vec<u8> {
    const ORGANIZATION: &[u8] = &[0x55, 4, 10];
    const COMMON_NAME: &[u8] = &[0x55, 4, 3];
    let attribute = |oid: &[u8], text: &str| {
        let pair = sequence(&[element(6, oid), element(0x0c, text.as_bytes())]);
        element(0x31, &pair)
    };
    let mut parts: Vec<Vec<u8>> = organizations.iter().map(|group| attribute(ORGANIZATION, group)).collect();
    parts.push(attribute(COMMON_NAME, common));
    sequence(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_apart_again() {
        let two = [element(4, &[7; 0x100]), element(5, &[])].concat();
        let (first, rest) = split(&two).unwrap();
        assert_eq!((content(first).unwrap(), rest), (&[7; 0x100][..], &[5, 0][..]));
        assert_eq!(split(&two[..9]), None);
        assert_eq!(content(&[]), None);
    }

    #[test]
    fn long_elements_say_their_length_in_several_bytes() {
        assert_eq!(element(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(element(4, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(element(4, &[0; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
    }
}
