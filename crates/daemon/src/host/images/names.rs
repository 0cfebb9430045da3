//! What images are called: a reference (`docker.io/library/alpine:3.20`) stands for one image here, which has a short name
//! (`alpine-3.20`) for its folder. A name that means something else already is told apart by a piece of the reference's
//! digest.

use super::manifest::ImageManifest;
use super::pull::canonical;
use super::{Library, catalog};
use ::images::digest;
use engine::host::Result;
use model::ImageName;
use model::image_ref::{ImageRef, OciReference};
use std::sync::PoisonError;

/// Hexadecimal digits of a reference's digest that tell two images of one name apart.
const DIGITS: usize = 8;

impl Library {
    /// The image that a person means, if it is here.
    pub fn find(&self, wanted: &ImageRef) -> Result<Option<ImageName>> {
        match wanted {
            ImageRef::Name(name) => Ok(self.layout.image_manifest(name).is_file().then(|| name.clone())),
            ImageRef::Oci(reference) => self.find_reference(reference),
        }
    }

    fn find_reference(&self, reference: &OciReference) -> Result<Option<ImageName>> {
        let wanted = canonical(reference).to_string();
        let stands = |(_, manifest): &(ImageName, ImageManifest)| manifest.references.contains(&wanted);
        Ok(self.manifests()?.into_iter().find(stands).map(|(name, _)| name))
    }

    /// The name that an image of this reference has or will have here; from now on it can be asked for by that.
    pub fn name_of(&self, reference: &OciReference) -> Result<ImageName> {
        if let Some(name) = self.find_reference(reference)? {
            return Ok(name);
        }
        let reference = canonical(reference);
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let short = reference.default_name();
        let free = |name: &ImageName| {
            // A name of the catalog is free for what it stands for there.
            let entry = self.image_entry(name);
            let other =
                entry.is_some_and(|entry| catalog::reference_of(&entry).map(canonical).as_ref() != Some(&reference));
            !self.layout.image(name).exists() && !other && wanted.get(name).is_none_or(|other| *other == reference)
        };
        let name = if free(&short) { short } else { told_apart(&short, &reference) };
        wanted.insert(name.clone(), reference);
        Ok(name)
    }

    /// What `name` was said to stand for.
    pub(super) fn reference_of(&self, name: &ImageName) -> Option<OciReference> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// What `name` stands for by custom: a bare `alpine` is Docker's.
    pub(super) fn implied_reference(&self, name: &ImageName) -> Option<OciReference> {
        let implied = self.access.bare_names.then(|| OciReference::parse(name.as_str()).ok());
        implied.flatten().map(|reference| canonical(&reference))
    }
}

fn told_apart(short: &ImageName, reference: &OciReference) -> ImageName {
    let digest = digest::of_bytes(reference.to_string().as_bytes());
    let kept: String = short.as_str().chars().take(model::name::MAX_ARTIFACT_BYTES - DIGITS - 1).collect();
    format!("{kept}-{}", &digest.hex()[..DIGITS]).parse().expect("a name with hexadecimal digits is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_told_apart_is_still_a_name() {
        let long: ImageName = "a".repeat(model::name::MAX_ARTIFACT_BYTES).parse().unwrap();
        let reference = OciReference::parse("r.example/a:1").unwrap();
        let name = told_apart(&long, &reference);
        assert!(name.as_str().len() == model::name::MAX_ARTIFACT_BYTES && name != long);
    }
}
