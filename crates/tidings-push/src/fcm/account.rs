//! The JSON file that Google gives for a service account.

use jsonwebtoken::EncodingKey;
use reqwest::Url;
use serde::Deserialize;

/// Who sends. `Debug` shows no key.
#[derive(Clone)]
pub struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    project_id: String,
    token_url: Url,
    signing: EncodingKey,
}

/// Why a file is not a service account's. It shows nothing of the file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccountError {
    /// Not the JSON object that it should be.
    #[error("it is not the JSON file of a service account (line {line}): accepted is what the Firebase console gives")]
    Json {
        /// Where.
        line: usize,
    },
    /// A key of another kind of account.
    #[error("its `type` is not \"service_account\"")]
    Type,
    /// The key.
    #[error("its `private_key` is no RSA key in PEM")]
    Key,
    /// The URL.
    #[error("its `token_uri` is not an http or https URL")]
    TokenUri,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    account_type: String,
    project_id: String,
    private_key_id: Option<String>,
    private_key: String,
    client_email: String,
    token_uri: String,
}

impl ServiceAccount {
    /// Reads the text of the file.
    pub fn parse(json: &str) -> Result<Self, AccountError> {
        // The error of serde could quote a value, and with it the key.
        let file: File = serde_json::from_str(json).map_err(|error| AccountError::Json { line: error.line() })?;
        if file.account_type != "service_account" {
            return Err(AccountError::Type);
        }
        let signing = EncodingKey::from_rsa_pem(file.private_key.as_bytes()).map_err(|_| AccountError::Key)?;
        let token_url = Url::parse(&file.token_uri)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or(AccountError::TokenUri)?;
        Ok(Self {
            email: file.client_email,
            key_id: file.private_key_id,
            project_id: file.project_id,
            token_url,
            signing,
        })
    }

    /// The project that it belongs to.
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    pub(super) fn email(&self) -> &str {
        &self.email
    }

    pub(super) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    pub(super) fn token_url(&self) -> &Url {
        &self.token_url
    }

    pub(super) fn signing(&self) -> &EncodingKey {
        &self.signing
    }
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServiceAccount({})", self.email)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_service_account_is_refused_without_being_quoted() {
        let file = |account_type: &str, key: &str, token_uri: &str| {
            serde_json::json!({
                "type": account_type, "project_id": "p", "private_key": key, "client_email": "a@b", "token_uri": token_uri,
            })
            .to_string()
        };
        for (text, expected) in [
            ("{\n\"type\": hunter2}".to_owned(), AccountError::Json { line: 2 }),
            ("{\"type\": 5}".to_owned(), AccountError::Json { line: 1 }),
            (file("authorized_user", "", "https://example.org/"), AccountError::Type),
            (file("service_account", "hunter2", "https://example.org/"), AccountError::Key),
        ] {
            let error = ServiceAccount::parse(&text).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
