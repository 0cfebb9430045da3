//! Converts tar layers to an ext4 image: `rootfs OUT.ext4 [--work-seed SEED.ext4] LAYER.tar…`.
#![allow(clippy::print_stdout)]

use images::ext4::{WriteOptions, write_rootfs};
use images::{Compression, Layer, Limits};
use std::error::Error;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let out = arguments.next().ok_or("no output given")?;
    let mut options = WriteOptions::default();
    if arguments.next_if(|argument| argument == "--work-seed").is_some() {
        options.work_seed = arguments.next().map(Into::into);
    }
    let layers: Vec<Layer> = arguments.map(|path| open(Path::new(&path))).collect::<Result<_, _>>()?;
    let facts = write_rootfs(&layers, Path::new(&out), &options, &mut |_| ControlFlow::Continue(()))?;
    println!("{facts:#?}");
    Ok(())
}

fn open(path: &Path) -> Result<Layer, Box<dyn Error>> {
    let mut start = [0; 4];
    std::os::unix::fs::FileExt::read_at(&File::open(path)?, &mut start, 0)?;
    match Compression::detect(&start) {
        Compression::Plain => Ok(Layer::open(path)?),
        compression => {
            let spool = tempfile::tempfile()?;
            let mut go_on = |_| ControlFlow::Continue(());
            Ok(Layer::spool(File::open(path)?, compression, spool, &Limits::default(), &mut go_on)?)
        }
    }
}
