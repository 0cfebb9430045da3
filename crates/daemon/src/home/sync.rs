//! One look at a workspace: scan, fetch what is new, prove it, bring it home, remember.

use super::excluded::{Excluded, parent};
use super::index::{self, IndexEntry};
use super::land::{self, Wanted};
use super::manifest::Manifest;
use super::quarantine::{Hash, Quarantine, digest};
use super::refs::{self, References, shown_path};
use super::state::{First, Report, State, decode_path, encode_path};
use super::tree::{Tree, read_small};
use super::{HomeError, Result, limits, objects, wip};
use crate::workspace::inspect::{Repository, Source};
use crate::workspace::{WorkspaceError, inspect};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A workspace, seen from the host.
#[derive(Debug, Clone)]
pub struct Place {
    /// Ours alone, for the quarantine and the state.
    pub folder: PathBuf,
    /// What stands after `refs/banger/`.
    pub home: String,
    pub host_path: PathBuf,
    pub prepared_at: u64,
    /// Files that git does not know yet were shipped, too.
    pub include_untracked: bool,
}

impl Place {
    pub fn state_file(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    pub fn state(&self) -> State {
        State::load(&self.state_file())
    }

    pub fn quarantine_folder(&self) -> PathBuf {
        self.folder.join("quarantine.git")
    }
}

/// Looks once. What could not be brought home stands in the report's `left`; an error means that nothing is known.
pub fn sync(tree: &mut dyn Tree, place: &Place, now: u64) -> Result<Report> {
    fs::create_dir_all(&place.folder).map_err(|source| HomeError::Store { path: place.folder.clone(), source })?;
    let host = repository(&place.host_path)?;
    let mut state = place.state();
    let begins = state.prepared_at != place.prepared_at || state.home.is_empty();
    if begins || state.home != place.home {
        begin(place, &mut state);
    }
    if state.held_bytes > limits::HELD_BYTES {
        empty(place, &mut state)?;
    }
    let quarantine = open(place, &host)?;
    let _swept = quarantine.sweep();
    let found = look(tree, &quarantine, &mut state)?;
    let report = bring_home(&host, place, &quarantine, found, &mut state, now, tree)?;
    state.report = report.clone();
    state.save(&place.state_file())?;
    Ok(report)
}

/// Throws the quarantine away: what it was needed for is on the host, and what is not comes again.
fn empty(place: &Place, state: &mut State) -> Result<()> {
    let folder = place.quarantine_folder();
    (state.held_bytes, state.wip_key) = (0, String::new());
    state.seen_packs.clear();
    state.facts.clear();
    match fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(HomeError::Store { path: folder, source }),
        _ => Ok(()),
    }
}

/// A look that brings nothing home, for when the host's repository is gone: everything is fetched into a quarantine of
/// its own, which borrows from nobody.
pub fn without_host(tree: &mut dyn Tree, place: &Place, now: u64) -> Result<(Quarantine, Report)> {
    let texts = read_small(
        tree,
        &[(b".git/config".to_vec(), limits::SMALL_BYTES), (b".git/shallow".to_vec(), limits::SMALL_BYTES)],
    )?;
    let config = String::from_utf8_lossy(texts[0].as_deref().unwrap_or_default()).to_ascii_lowercase();
    let hash = if config.contains("sha256") { Hash::Sha256 } else { Hash::Sha1 };
    let shallow = texts[1].as_deref().map(|text| only_objects(text, hash.digits()));
    let folder = place.folder.join("orphan.git");
    let nothing = place.folder.join("nothing");
    fs::create_dir_all(&nothing).map_err(|source| HomeError::Store { path: nothing.clone(), source })?;
    let quarantine = Quarantine::open(&folder, &nothing, shallow.as_deref().filter(|text| !text.is_empty()), hash)?;
    let mut state = State::default();
    let found = look(tree, &quarantine, &mut state)?;
    let head = found.references.head.clone();
    let input = wip::Input {
        manifest: &found.manifest,
        index: &found.index,
        index_mtime_ns: found.index_mtime_ns,
        head: head.as_deref(),
        excluded: found.excluded,
        now,
    };
    let made = wip::build(tree, input, &quarantine, &mut state)?;
    let report =
        Report { looked_at: now, head, wip: made.commit, changed_files: made.changed_files, ..Report::default() };
    Ok((quarantine, report))
}

/// A guest's `shallow` file, line by line proven.
pub(super) fn only_objects(text: &[u8], digits: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| refs::is_object(line, digits));
    lines.flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}

/// The host's repository, whose top is that very folder.
pub fn repository(path: &Path) -> Result<Box<Repository>> {
    let unusable = |source| HomeError::Host { path: path.to_owned(), source: Box::new(source) };
    match inspect(path).map_err(unusable)? {
        Source::Git(repository) => Ok(repository),
        Source::Folder { path } => Err(unusable(WorkspaceError::BrokenWorktree { path })),
    }
}

pub fn open(place: &Place, host: &Repository) -> Result<Quarantine> {
    let shallow = fs::read(host.common_folder.join("shallow")).ok();
    let hash = Hash::of_format(&host.object_format);
    Quarantine::open(&place.quarantine_folder(), &host.common_folder.join("objects"), shallow.as_deref(), hash)
}

/// A new shipment, or a new name.
fn begin(place: &Place, state: &mut State) {
    let owns = state.owns && state.home == place.home;
    let facts = std::mem::take(&mut state.facts);
    let seen_packs = std::mem::take(&mut state.seen_packs);
    let keeps = state.prepared_at == place.prepared_at;
    let first = state.first.take().filter(|_| keeps);
    let (prepared_at, home, held_bytes) = (place.prepared_at, place.home.clone(), state.held_bytes);
    *state = State { prepared_at, home, owns, facts, seen_packs, held_bytes, first, ..State::default() };
}

struct Found {
    manifest: Manifest,
    references: References,
    index: Vec<IndexEntry>,
    index_mtime_ns: i64,
    excluded: Excluded,
    complaints: Vec<String>,
}

fn look(tree: &mut dyn Tree, quarantine: &Quarantine, state: &mut State) -> Result<Found> {
    let mut pruned: Vec<Vec<u8>> = state.pruned.iter().filter_map(|path| decode_path(path)).collect();
    loop {
        let manifest = Manifest::take(tree, &pruned)?;
        if !manifest.is_repository {
            return Err(HomeError::Nothing { path: tree.path().to_owned() });
        }
        let (excluded, rules) = rules(tree, &manifest)?;
        // Other rules may show what was left out; only a scan of everything tells.
        if rules != state.rules && !pruned.is_empty() {
            pruned.clear();
            continue;
        }
        state.rules = rules;
        let (packs, taken) = (&mut state.seen_packs, &mut state.held_bytes);
        let mut complaints: Vec<String> =
            objects::import(tree, &manifest, quarantine, packs, taken)?.into_iter().collect();
        let references = refs::read(tree, &manifest, quarantine.hash().digits())?;
        complaints.extend(references.complaints.iter().cloned());
        let (index, index_mtime_ns) = read_index(tree, &manifest, quarantine.hash(), &mut complaints)?;
        let mut found = Found { manifest, references, index, index_mtime_ns, excluded, complaints };
        state.pruned = to_prune(&mut found, &pruned).iter().map(|path| encode_path(path)).collect();
        return Ok(found);
    }
}

/// Every ignore file and `.git/info/exclude`, and a digest of them.
pub(super) fn rules(tree: &mut dyn Tree, manifest: &Manifest) -> Result<(Excluded, String)> {
    let is_rules = |path: &[u8]| path == b".gitignore" || path.ends_with(b"/.gitignore");
    let files = manifest.work.iter().filter(|record| is_rules(&record.path) && record.size <= limits::SMALL_BYTES);
    let mut wanted = vec![(b".git/info/exclude".to_vec(), limits::SMALL_BYTES)];
    let mut held = 0;
    for record in files.take(limits::IGNORE_FILES) {
        // It may have grown a little since it was listed; a guest that means to fill our memory lets it grow much.
        let most = 2 * record.size + limits::REFERENCE_BYTES;
        held += most;
        if held > limits::IGNORE_BYTES {
            break;
        }
        wanted.push((record.path.clone(), most));
    }
    let texts = read_small(tree, &wanted)?;
    let mut excluded = Excluded::default();
    let mut parts: Vec<&[u8]> = Vec::new();
    for ((path, _), text) in wanted.iter().zip(&texts) {
        let Some(text) = text else { continue };
        match path.starts_with(b".git/") {
            true => excluded.add_exclude(text),
            false => excluded.add(parent(path), text),
        }
        parts.extend([path.as_slice(), text.as_slice()]);
    }
    let digest = digest(parts);
    Ok((excluded, digest))
}

/// An index that cannot be read costs time, not work: every file is then read.
pub(super) fn read_index(
    tree: &mut dyn Tree,
    manifest: &Manifest,
    hash: Hash,
    complaints: &mut Vec<String>,
) -> Result<(Vec<IndexEntry>, i64)> {
    let Some(record) = manifest.git.iter().find(|record| record.path == b".git/index") else {
        return Ok((Vec::new(), 0));
    };
    let bytes = read_small(tree, &[(record.path.clone(), limits::INDEX_BYTES)])?.remove(0);
    match bytes.map(|bytes| index::parse(&bytes, hash.bytes())) {
        Some(Ok(entries)) => Ok((entries, record.mtime_ns)),
        Some(Err(error)) => {
            // Without it a file that is tracked and ignored looks untracked: only then something is left.
            complaints.push(format!("the guest's index cannot be read: {error}"));
            Ok((Vec::new(), 0))
        }
        None => Ok((Vec::new(), 0)),
    }
}

/// The topmost folders that git would not track and that hold nothing it does; and the insides of other repositories.
fn to_prune(found: &mut Found, already: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut tracked: HashSet<&[u8]> = HashSet::new();
    for entry in &found.index {
        let mut folder = parent(&entry.path);
        while !folder.is_empty() && tracked.insert(folder) {
            folder = parent(folder);
        }
    }
    let mut folders: Vec<&Vec<u8>> = found.manifest.folders.iter().chain(already).collect();
    folders.sort();
    let mut pruned: BTreeSet<Vec<u8>> = BTreeSet::new();
    for folder in folders {
        let covered = pruned.contains(parent(folder));
        if !covered && !tracked.contains(folder.as_slice()) && found.excluded.is_excluded(folder, true) {
            pruned.insert(folder.clone());
        }
    }
    let nested = found.manifest.nested.iter().map(|folder| [folder.as_slice(), b"/.git"].concat());
    pruned.into_iter().chain(nested).collect()
}

#[allow(clippy::too_many_arguments)]
fn bring_home(
    host: &Repository,
    place: &Place,
    quarantine: &Quarantine,
    found: Found,
    state: &mut State,
    now: u64,
    tree: &mut dyn Tree,
) -> Result<Report> {
    let Found { manifest, references, index, index_mtime_ns, excluded, mut complaints } = found;
    for folder in &manifest.nested {
        complaints.extend(nested(tree, place, folder, now));
    }
    complaints
        .extend(manifest.refused.iter().map(|path| format!("`{}` has a name that git refuses", shown_path(path))));
    let head = references.head.as_deref();
    let input = wip::Input { manifest: &manifest, index: &index, index_mtime_ns, head, excluded, now };
    let made = uncommitted(wip::build(tree, input, quarantine, state))?;
    complaints.extend(made.complaints);
    let wanted = wanted(&references, made.commit.as_deref(), place, quarantine, host, &mut complaints)?;
    let landed = land::land(host, quarantine, place, &wanted, state.owns)?;
    state.owns |= !landed.references.is_empty();
    complaints.extend(landed.refused);
    let first = state.first.get_or_insert_with(|| First {
        head: references.head.clone(),
        wip: made.commit.clone(),
        branches: references.branches.clone(),
    });
    let differs = first.head != references.head || first.wip != made.commit || first.branches != references.branches;
    // An untouched guest brings nothing home.
    let moved = state.owns || differs;
    complaints.truncate(limits::COMPLAINTS);
    Ok(Report {
        looked_at: now,
        commits: commits(host, &landed.references)?,
        branch: references.branch,
        head: references.head,
        wip: made.commit,
        changed_files: made.changed_files,
        moved,
        references: landed.references,
        left: complaints,
    })
}

/// What is committed comes home also where git cannot work on the rest.
fn uncommitted(built: Result<wip::Wip>) -> Result<wip::Wip> {
    match built {
        Err(HomeError::Git { source }) => {
            let said = format!("what is not committed: {}", refs::shown(&source.to_string()));
            Ok(wip::Wip { commit: None, changed_files: 0, complaints: vec![said] })
        }
        built => built,
    }
}

/// A repository within the tree is looked at as a workspace of its own where the host has one at the same place: so do
/// submodules come home, each into its own repository. Of any other the files are in the wip commit, its history is not.
fn nested(tree: &mut dyn Tree, place: &Place, folder: &[u8], now: u64) -> Vec<String> {
    let name = shown_path(folder);
    let host_path = place.host_path.join(OsStr::from_bytes(folder));
    let is_there =
        repository(&host_path).is_ok_and(|found| host_path.canonicalize().is_ok_and(|path| path == found.top));
    let path = std::str::from_utf8(folder).ok().filter(|_| is_there);
    let Some(path) = path else {
        return vec![format!("`{name}` is a repository of its own that the host does not have; its commits")];
    };
    let own = Place {
        folder: place.folder.join("nested").join(&digest([folder])[..16]),
        home: place.home.clone(),
        host_path,
        prepared_at: place.prepared_at,
        include_untracked: place.include_untracked,
    };
    match sync(tree.below(path).as_mut(), &own, now) {
        Ok(report) => report.left.iter().map(|line| format!("in `{name}`: {line}")).collect(),
        Err(HomeError::Nothing { .. }) => {
            vec![format!("`{name}` keeps its repository in another place of the guest; its commits")]
        }
        Err(error) => vec![format!("`{name}` is a repository of its own: {error}")],
    }
}

/// The references on the host, each with an object of the right type.
fn wanted(
    references: &References,
    wip: Option<&str>,
    place: &Place,
    quarantine: &Quarantine,
    host: &Repository,
    complaints: &mut Vec<String>,
) -> Result<Wanted> {
    let own = |rest: &str| format!("refs/banger/{}/{rest}", place.home);
    let mut listed: Vec<(String, String, &str)> = Vec::new();
    for (name, object) in &references.branches {
        listed.push((own(&branch_name(name)), object.clone(), "commit"));
    }
    let tags = if references.tags.is_empty() { BTreeMap::new() } else { land::host_references(host)? };
    for (name, object) in &references.tags {
        if tags.get(&format!("refs/tags/{name}")) != Some(object) {
            listed.push((own(&format!("tags/{name}")), object.clone(), ""));
        }
    }
    for (number, object) in references.stashes.iter().enumerate() {
        listed.push((own(&format!("stash/{number}")), object.clone(), "commit"));
    }
    if let Some(object) = wip.or(references.head.as_deref()) {
        listed.push((own("wip"), object.to_owned(), "commit"));
    }
    let names: Vec<String> = listed.iter().map(|(_, object, _)| object.clone()).collect();
    let types = quarantine.types(&names)?;
    let mut wanted = Wanted::new();
    for ((name, object, kind), found) in listed.into_iter().zip(types) {
        match found.as_deref() {
            Some(found) if kind.is_empty() || found == kind => drop(wanted.insert(name, object)),
            Some(found) => complaints.push(format!("`{name}` is a {found}")),
            None => complaints.push(format!("`{name}`: its object {object} is not there")),
        }
    }
    Ok(wanted)
}

/// Names that we use ourselves are given another first part.
fn branch_name(name: &str) -> String {
    match name.split_once('/').map_or((name, None), |(first, rest)| (first, Some(rest))) {
        (first @ ("wip" | "tags" | "stash"), rest) => match rest {
            Some(rest) => format!("{first}-branch/{rest}"),
            None => format!("{first}-branch"),
        },
        _ => name.to_owned(),
    }
}

/// How many commits of the guest the host did not have.
fn commits(host: &Repository, landed: &Wanted) -> Result<u64> {
    let heads = landed.iter().filter(|(name, _)| !name.ends_with("/wip")).map(|(_, object)| object.as_str());
    let mut words = vec!["rev-list", "--count", "--ignore-missing"];
    let heads: Vec<&str> = heads.collect();
    if heads.is_empty() {
        return Ok(0);
    }
    words.extend(&heads);
    words.extend(["--not", "--branches", "--tags", "--remotes"]);
    words.extend(host.head.as_deref());
    let count = host.git.line(&words)?;
    Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_names_are_kept_free() {
        for (name, expected) in [
            ("main", "main"),
            ("wip", "wip-branch"),
            ("wip/x", "wip-branch/x"),
            ("wipe", "wipe"),
            ("tags/v1", "tags-branch/v1"),
        ] {
            assert_eq!(branch_name(name), expected);
        }
    }
}
