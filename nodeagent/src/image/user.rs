//! Who a container runs as: the image's `USER`, by number or by name in the image's own files.

use std::path::{Path, PathBuf};

/// A resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Groups of `/etc/group` that list the user.
    pub(crate) groups: Vec<u32>,
    /// Of `/etc/passwd`.
    pub(crate) home: Option<String>,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the image has no {what} {name:?}")]
pub(crate) struct NoSuchUser {
    what: &'static str,
    name: String,
}

/// The two files of an image, as text.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// From an image's layers, top-most first.
    pub(crate) fn read(layers: &[PathBuf]) -> Self {
        let read = |name: &str| {
            let there = |layer: &PathBuf| std::fs::symlink_metadata(layer.join(name)).ok();
            let found = layers.iter().find_map(|layer| there(layer).map(|metadata| (layer, metadata)));
            // A link could lead out of the image; such an image gets no names.
            let file = found.filter(|(_, metadata)| metadata.is_file()).map(|(layer, _)| layer.join(name));
            file.and_then(|file| read_text(&file)).unwrap_or_default()
        };
        Self { passwd: read("etc/passwd"), group: read("etc/group") }
    }

    /// Resolves `user`, `uid`, `user:group` or any mixture; empty is root.
    pub(crate) fn resolve(&self, wanted: &str) -> Result<User, NoSuchUser> {
        let (user, group) =
            wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let number: Option<u32> = user.parse().ok();
        let entry = self.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
            fields.first() == Some(&user) || (number.is_some() && fields.get(2) == Some(&user))
        });
        let field = |index: usize| entry.as_ref().and_then(|fields| fields.get(index).copied());
        let name = field(0);
        let uid = number.or_else(|| field(2)?.parse().ok());
        let uid = uid.ok_or_else(|| NoSuchUser { what: "user", name: user.to_owned() })?;
        let gid = match group.filter(|group| !group.is_empty()) {
            Some(group) => self.group_id(group)?,
            None => field(3).and_then(|gid| gid.parse().ok()).unwrap_or(0),
        };
        let groups = name.map(|name| self.groups_of(name)).unwrap_or_default();
        Ok(User { uid, gid, groups, home: field(5).map(str::to_owned) })
    }

    fn group_id(&self, group: &str) -> Result<u32, NoSuchUser> {
        if let Ok(number) = group.parse() {
            return Ok(number);
        }
        let line = self.group.lines().find(|line| line.split(':').next() == Some(group));
        line.and_then(|line| line.split(':').nth(2)?.parse().ok())
            .ok_or_else(|| NoSuchUser { what: "group", name: group.to_owned() })
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let lists =
            |line: &&str| line.split(':').nth(3).is_some_and(|users| users.split(',').any(|u| u == user));
        let id = |line: &str| line.split(':').nth(2)?.parse().ok();
        self.group.lines().filter(lists).filter_map(id).collect()
    }
}

fn read_text(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|text| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n".into(),
            group: "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\n".into(),
        }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let web = User { uid: 33, gid: 34, groups: vec![40], home: Some("/var/www".into()) };
        assert_eq!(accounts().resolve("web").unwrap(), web);
        assert_eq!(accounts().resolve("33").unwrap(), web);
        assert_eq!(accounts().resolve("web:root").unwrap().gid, 0);
        assert_eq!(accounts().resolve("").unwrap().home.as_deref(), Some("/root"));
        assert_eq!(accounts().resolve("1000:50").unwrap(), User { uid: 1000, gid: 50, ..User::default() });
    }

    #[test]
    fn an_unknown_name_says_which() {
        assert_eq!(accounts().resolve("nobody").unwrap_err().to_string(), "the image has no user \"nobody\"");
        assert_eq!(accounts().resolve("web:x").unwrap_err().to_string(), "the image has no group \"x\"");
    }
}
