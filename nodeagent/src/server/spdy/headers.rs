//! Header blocks of SPDY/3: names and values, compressed over the life of a connection with the
//! specification's dictionary.

use std::sync::LazyLock;

use flate2::{Decompress, FlushDecompress};

use super::SpdyError;

/// A header block must not unpack to more.
const BLOCK_BYTES_MAX: usize = 32 * 1024;
/// `zlib` with a dictionary, and the dictionary's Adler-32 sum.
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];

/// The dictionary's words that have their length before them.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
    location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te \
    trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK \
    version HTTP/1.1 url public set-cookie keep-alive origin";

/// The rest of the dictionary.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS.split_whitespace() {
        bytes.extend(u32::try_from(word.len()).unwrap_or_default().to_be_bytes());
        bytes.extend(word.replace('_', " ").as_bytes());
    }
    bytes.extend(TEXT.as_bytes());
    bytes
});

/// The headers of one stream; names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(in crate::server) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Unpacks the header blocks of one direction, in their order.
pub(super) struct HeaderDecoder {
    inflate: Decompress,
    begun: bool,
}

impl HeaderDecoder {
    pub(super) fn new() -> Self {
        // Raw, because not every implementation of zlib behind the crate takes a dictionary: it goes in
        // as a stored block before the data, which has the same effect.
        Self { inflate: Decompress::new(false), begun: false }
    }

    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let packed = if self.begun { block } else { self.begin(block)? };
        let plain = self.unpack(packed)?;
        parse(&plain).ok_or(SpdyError::Headers)
    }

    /// Takes zlib's own header off the first block.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        self.begun = true;
        let [method, flags, rest @ ..] = block else { return Err(SpdyError::Headers) };
        if method & 0x0f != 8 {
            return Err(SpdyError::Headers);
        }
        if flags & 0x20 == 0 {
            return Ok(rest);
        }
        if !block.starts_with(&[*method, *flags, 0xe3, 0xc6, 0xa7, 0xc2]) {
            return Err(SpdyError::Headers);
        }
        self.unpack(&stored(&DICTIONARY))?;
        Ok(&rest[4..])
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::with_capacity(BLOCK_BYTES_MAX);
        let mut rest = packed;
        while !rest.is_empty() {
            let before = self.inflate.total_in();
            self.inflate
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync)
                .map_err(|_| SpdyError::Headers)?;
            let taken = usize::try_from(self.inflate.total_in() - before).unwrap_or(rest.len());
            if taken == 0 || plain.len() == BLOCK_BYTES_MAX {
                return Err(SpdyError::Headers);
            }
            rest = &rest[taken..];
        }
        Ok(plain)
    }
}

/// Packs the header blocks of one direction. They are stored, not compressed: ours are empty.
#[derive(Default)]
pub(super) struct HeaderEncoder {
    begun: bool,
}

impl HeaderEncoder {
    /// A block without headers.
    pub(super) fn empty(&mut self) -> Vec<u8> {
        let mut block = if self.begun { Vec::new() } else { ZLIB_HEAD.to_vec() };
        self.begun = true;
        block.extend(stored(&0u32.to_be_bytes()));
        // The empty block is zlib's flush: some readers give nothing out before it.
        block.extend(stored(&[]));
        block
    }
}

/// `bytes` as one deflate block that is not compressed and not the last.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut block = vec![0];
    block.extend(length.to_le_bytes());
    block.extend((!length).to_le_bytes());
    block.extend(bytes);
    block
}

fn parse(plain: &[u8]) -> Option<Headers> {
    let mut rest = plain;
    let count = take_number(&mut rest)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut rest)?.to_ascii_lowercase();
        pairs.push((name, take_text(&mut rest)?));
    }
    Some(Headers(pairs))
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header block as a client writes it, uncompressed in its zlib stream.
    pub(in crate::server::spdy) fn block(first: bool, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = if first { ZLIB_HEAD.to_vec() } else { Vec::new() };
        block.extend(stored(&plain));
        block
    }

    #[test]
    fn dictionary_is_that_of_the_specification() {
        let (mut low, mut high) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            low = (low + u32::from(*byte)) % 65521;
            high = (high + low) % 65521;
        }
        assert_eq!((DICTIONARY.len(), (high << 16) | low), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_are_read_one_after_another() {
        let mut decoder = HeaderDecoder::new();
        let first = decoder.decode(&block(true, &[("streamType", "error"), ("Port", "80")])).unwrap();
        assert_eq!((first.get("streamtype"), first.get("port")), (Some("error"), Some("80")));
        let second = decoder.decode(&block(false, &[("streamtype", "data")])).unwrap();
        assert_eq!(second.get("streamtype"), Some("data"));
    }

    #[test]
    fn a_compressed_block_may_refer_to_the_dictionary() {
        // `{"version": "HTTP/1.1"}`, packed by zlib with the dictionary and a sync flush.
        let packed = [
            0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0xa6, 0x23, 0x46, 0x1c, 0xe9, 0x11, 0x00, 0x00, 0x00,
            0xff, 0xff,
        ];
        let headers = HeaderDecoder::new().decode(&packed).unwrap();
        assert_eq!(headers.get("version"), Some("HTTP/1.1"));
    }

    #[test]
    fn a_block_that_is_none_or_too_large_is_refused() {
        assert!(HeaderDecoder::new().decode(b"nonsense").is_err());
        assert!(HeaderDecoder::new().decode(&[]).is_err());
        let large = "x".repeat(40_000);
        assert!(HeaderDecoder::new().decode(&block(true, &[("a", &large)])).is_err());
    }

    #[test]
    fn empty_replies_are_blocks_too() {
        let (mut encoder, mut decoder) = (HeaderEncoder::default(), HeaderDecoder::new());
        for _ in 0..3 {
            assert_eq!(decoder.decode(&encoder.empty()).unwrap(), Headers::default());
        }
    }
}
