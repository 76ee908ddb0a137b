//! The ciphers of the providers: AES-CBC, AES-GCM and XSalsa20-Poly1305, with random nonces before the text.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptionContext, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};

const CBC_IV: usize = 16;
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;

/// A key and the way it is used.
pub(super) enum Cipher {
    Cbc(&'static cipher::Algorithm, Vec<u8>),
    Gcm(Box<LessSafeKey>),
    Box(Box<XSalsa20Poly1305>),
}

impl std::fmt::Debug for Cipher {
    /// Never shows a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// The cipher of a provider with this key, or why the key does not fit it.
    pub(super) fn new(provider: &str, key: &[u8]) -> Result<Self, String> {
        let length = |wanted: &str| format!("the key has {} bytes; {wanted} are needed", key.len());
        match provider {
            "secretbox" => {
                let cipher = XSalsa20Poly1305::new_from_slice(key).map_err(|_| length("32"))?;
                Ok(Self::Box(Box::new(cipher)))
            }
            "aesgcm" => {
                let algorithm = match key.len() {
                    16 => &aead::AES_128_GCM,
                    24 => &aead::AES_192_GCM,
                    32 => &aead::AES_256_GCM,
                    _ => return Err(length("16, 24 or 32")),
                };
                let key = UnboundKey::new(algorithm, key).map_err(|e| e.to_string())?;
                Ok(Self::Gcm(Box::new(LessSafeKey::new(key))))
            }
            _ => {
                let algorithm = match key.len() {
                    16 => &cipher::AES_128,
                    24 => &cipher::AES_192,
                    32 => &cipher::AES_256,
                    _ => return Err(length("16, 24 or 32")),
                };
                Ok(Self::Cbc(algorithm, key.to_vec()))
            }
        }
    }

    /// Encrypts; `path` is bound to the text where the cipher can do that.
    pub(super) fn seal(&self, plain: &[u8], path: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        match self {
            Self::Cbc(algorithm, key) => {
                let iv: [u8; CBC_IV] = rand::random();
                let context = EncryptionContext::Iv128(FixedLength::from(iv));
                UnboundCipherKey::new(algorithm, key)
                    .and_then(cipher::PaddedBlockEncryptingKey::cbc_pkcs7)
                    .and_then(|key| key.less_safe_encrypt(&mut text, context))
                    .expect("the key was checked when it was read");
                [&iv[..], &text].concat()
            }
            Self::Gcm(key) => {
                let nonce: [u8; GCM_NONCE] = rand::random();
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(path), &mut text)
                    .expect("an object is far smaller than what the cipher takes");
                [&nonce[..], &text].concat()
            }
            Self::Box(cipher) => {
                let nonce: [u8; BOX_NONCE] = rand::random();
                let sealed = cipher.encrypt(&nonce.into(), plain);
                [&nonce[..], &sealed.expect("an object is far smaller than what the cipher takes")].concat()
            }
        }
    }

    /// Decrypts; none if key, path or text are others than when it was encrypted.
    pub(super) fn open(&self, sealed: &[u8], path: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Cbc(algorithm, key) => {
                let (iv, text) = sealed.split_first_chunk::<CBC_IV>()?;
                let mut text = text.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(*iv));
                let key = UnboundCipherKey::new(algorithm, key).ok()?;
                let key = cipher::PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
                key.decrypt(&mut text, context).ok().map(|plain| plain.to_vec())
            }
            Self::Gcm(key) => {
                let (nonce, text) = sealed.split_first_chunk::<GCM_NONCE>()?;
                let mut text = text.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                key.open_in_place(nonce, Aad::from(path), &mut text).ok().map(|plain| plain.to_vec())
            }
            Self::Box(cipher) => {
                let (nonce, text) = sealed.split_first_chunk::<BOX_NONCE>()?;
                cipher.decrypt(&(*nonce).into(), text).ok()
            }
        }
    }
}
