//! Which token or store a command is for, where the command line need not say.

use std::path::PathBuf;
use std::sync::Arc;

use cryptoki_sys::{CKF_RW_SESSION, CKF_SERIAL_SESSION, CKU_SO};
use tpm11::token::slot::{Holds, Home, Slot, StorePlace};
use tpm11::token::token::Token;
use tpm11::token::trust::Among;
use tpm11::token::{Module, Session};

use crate::failure::{Exit, Failure};
use crate::shown::{line, unhex};

/// The only token, or the one with this label or serial number.
pub(crate) fn token(
    module: &Module,
    wanted: Option<&str>,
) -> Result<(Arc<Slot>, Arc<Token>), Failure> {
    let mut found = Vec::new();
    let mut all = Vec::new();
    for slot in module.slots() {
        let Holds::Token(token) = slot.holds() else { continue };
        let row =
            token.store.token(&token.serial).map_err(|fault| Failure::new(Exit::Store, fault))?;
        let label = row.map(|row| String::from_utf8_lossy(&row.label).trim_end().to_owned());
        let label = label.unwrap_or_default();
        all.push(format!("{} \"{label}\"", token.name()));
        if wanted.is_none_or(|wanted| wanted == label || wanted.eq_ignore_ascii_case(&token.name()))
        {
            found.push((slot, token));
        }
    }
    let list = all.join(", ");
    match (found.len(), wanted) {
        (1, _) => found.pop().ok_or_else(|| Failure::new(Exit::Other, "there is no token")),
        (0, None) => Err(Failure::new(Exit::Token, "there is no token")
            .hint("`tpm11 status` says what there is; `tpm11 init` makes one")),
        (0, Some(wanted)) => Err(Failure::new(
            Exit::Token,
            format_args!("no token has the label or serial number \"{wanted}\""),
        )
        .hint(format_args!("there are: {list}"))),
        _ => Err(Failure::new(Exit::Token, "there are several tokens; say which")
            .hint(format_args!("--token with one of these serial numbers: {list}"))),
    }
}

/// A session in which nobody is logged in yet.
pub(crate) fn anybody(module: &Module, slot: &Slot) -> Result<Arc<Session>, Failure> {
    let session = module.open_session(slot.id, CKF_SERIAL_SESSION | CKF_RW_SESSION)?;
    Ok(module.session(session)?)
}

/// The only key of the token with this label, or this id in hexadecimal digits.
pub(crate) fn key(session: &Session, name: &str, among: Among) -> Result<Option<u64>, Failure> {
    match session.keys_called(name, unhex(name).as_deref(), among)?.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let shown: Result<Vec<String>, Failure> =
                several.iter().map(|handle| Ok(line(&session.shown(*handle)?))).collect();
            Err(Failure::new(Exit::Other, format_args!("several keys: {name}"))
                .hint(format_args!("name it by its id: {}", shown?.join(", "))))
        }
    }
}

/// A session with the security officer logged in.
pub(crate) fn officer(
    module: &Module,
    slot: &Slot,
    so_pin: &[u8],
) -> Result<Arc<Session>, tpm11::error::Error> {
    let session = module.open_session(slot.id, CKF_SERIAL_SESSION | CKF_RW_SESSION)?;
    let session = module.session(session)?;
    session.login(CKU_SO, so_pin)?;
    Ok(session)
}

/// The only store that fits, or the one in this directory.
pub(crate) fn store<'a>(
    module: &'a Module,
    wanted: Option<&PathBuf>,
    fits: impl Fn(&StorePlace) -> bool,
) -> Result<(&'a Arc<Home>, &'a StorePlace), Failure> {
    let all: Vec<_> = module
        .homes()
        .iter()
        .flat_map(|home| home.places.iter().map(move |place| (home, place)))
        .collect();
    let list = |places: &[(&Arc<Home>, &StorePlace)]| {
        let shown = places.iter().map(|(_, place)| place.directory.display().to_string());
        shown.collect::<Vec<_>>().join(", ")
    };
    if let Some(wanted) = wanted {
        let path = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let same = |place: &StorePlace| path(&place.directory) == path(wanted);
        return all.iter().copied().find(|(_, place)| same(place)).ok_or_else(|| {
            let what = format!("{} is no store of the configuration", wanted.display());
            Failure::new(Exit::Store, what).hint(format_args!("these are: {}", list(&all)))
        });
    }
    let fitting: Vec<_> = all.iter().copied().filter(|(_, place)| fits(place)).collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::new(Exit::Store, "no store fits")
            .hint(format_args!("`tpm11 status` says how they are: {}", list(&all)))),
        several => Err(Failure::new(Exit::Store, "there are several stores; say which")
            .hint(format_args!("--store with one of: {}", list(several)))),
    }
}
