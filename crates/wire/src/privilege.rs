//! The privilege API: what `bangerd` may ask of its root helper.
