//! `linux.resources.blockIO`. Refuses leaf weights where the kernel has none.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::OciError;
use super::place::Place;

const WEIGHT: &str = "linux.resources.blockIO.weight";
const LEAF_WEIGHT: &str = "linux.resources.blockIO.leafWeight";
const WEIGHT_DEVICE: &str = "linux.resources.blockIO.weightDevice";

pub fn apply(place: &Place, io: &LinuxBlockIo) -> Result<(), OciError> {
    let weight = io.weight().filter(|weight| *weight != 0);
    let leaf = io.leaf_weight().filter(|weight| *weight != 0);
    if place.is_v2 {
        unified_weights(place, io, weight, leaf)?
    } else {
        legacy_weights(place, io, weight, leaf)?
    }
    for (field, devices, v1, v2) in [
        ("throttleReadBpsDevice", io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
    ] {
        let field = format!("linux.resources.blockIO.{field}");
        for device in devices.iter().flatten() {
            throttle(place, &field, device, v1, v2)?;
        }
    }
    Ok(())
}

fn throttle(place: &Place, field: &str, device: &LinuxThrottleDevice, v1: &str, v2: &str) -> Result<(), OciError> {
    let (device, rate) = (format!("{}:{}", device.major(), device.minor()), device.rate());
    if !place.is_v2 {
        return place.set(field, v1, format!("{device} {rate}"));
    }
    // Zero takes the limit away.
    let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
    place.set(field, "io.max", format!("{device} {v2}={rate}"))
}

fn unified_weights(place: &Place, io: &LinuxBlockIo, weight: Option<u16>, leaf: Option<u16>) -> Result<(), OciError> {
    let no_leaf = OciError::Unsupported { field: LEAF_WEIGHT.to_owned(), why: "cgroup v2 has nothing like it" };
    let devices = io.weight_device().iter().flatten();
    if leaf.is_some() || devices.clone().any(|device| device.leaf_weight().is_some_and(|weight| weight != 0)) {
        return Err(no_leaf);
    }
    // BFQ's has the same numbers as v1's; the other one has those of v2.
    let (file, is_bfq) = if place.has("io.bfq.weight") { ("io.bfq.weight", true) } else { ("io.weight", false) };
    let number = |weight: u16| if is_bfq { u64::from(weight) } else { of_v2(weight) };
    if let Some(weight) = weight {
        place.set(WEIGHT, file, number(weight))?;
    }
    for device in devices {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {}", device.major(), device.minor(), number(weight));
            place.set(WEIGHT_DEVICE, file, value)?;
        }
    }
    Ok(())
}

/// From 10..=1000 to 1..=10000, as elsewhere.
fn of_v2(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn legacy_weights(place: &Place, io: &LinuxBlockIo, weight: Option<u16>, leaf: Option<u16>) -> Result<(), OciError> {
    // CFQ's went with CFQ; BFQ has names of its own.
    let name = |old: &'static str, bfq: &'static str| if place.has(bfq) { bfq } else { old };
    if let Some(weight) = weight {
        place.set(WEIGHT, name("blkio.weight", "blkio.bfq.weight"), weight)?;
    }
    if let Some(weight) = leaf {
        place.set(LEAF_WEIGHT, "blkio.leaf_weight", weight)?;
    }
    for device in io.weight_device().iter().flatten() {
        let value = |weight: u16| format!("{}:{} {weight}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            place.set(WEIGHT_DEVICE, name("blkio.weight_device", "blkio.bfq.weight_device"), value(weight))?;
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
            place.set(LEAF_WEIGHT, "blkio.leaf_weight_device", value(weight))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxBlockIoBuilder, LinuxThrottleDeviceBuilder};

    use super::super::tests::place;
    use super::*;

    fn devices() -> Vec<LinuxThrottleDevice> {
        vec![LinuxThrottleDeviceBuilder::default().major(8).minor(0).rate(1000u64).build().unwrap()]
    }

    #[test]
    fn v2() {
        let (_dir, place) = place(true, &["io.max", "io.weight"]);
        let io = LinuxBlockIoBuilder::default().weight(500u16).throttle_write_iops_device(devices()).build().unwrap();
        apply(&place, &io).unwrap();
        assert_eq!(place.read("io.max").unwrap(), "8:0 wiops=1000");
        assert_eq!(place.read("io.weight").unwrap(), of_v2(500).to_string());
        assert_eq!([10, 100, 1000].map(of_v2), [1, 910, 10_000]);
        let leaf = LinuxBlockIoBuilder::default().leaf_weight(10u16).build().unwrap();
        assert!(apply(&place, &leaf).unwrap_err().to_string().contains("leafWeight"));
    }

    #[test]
    fn v1() {
        let (_dir, place) = place(false, &["blkio.throttle.read_bps_device", "blkio.bfq.weight"]);
        let io = LinuxBlockIoBuilder::default().weight(500u16).throttle_read_bps_device(devices()).build().unwrap();
        apply(&place, &io).unwrap();
        assert_eq!(place.read("blkio.throttle.read_bps_device").unwrap(), "8:0 1000");
        assert_eq!(place.read("blkio.bfq.weight").unwrap(), "500");
        let leaf = LinuxBlockIoBuilder::default().leaf_weight(10u16).build().unwrap();
        assert!(apply(&place, &leaf).unwrap_err().to_string().contains("leafWeight"));
    }
}
