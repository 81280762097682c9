//! The cards' links, passed on to their TAPs: looked at once a second. Everything else follows from the TAP's
//! carrier, which comes back over rtnetlink: the kernel's routes, DHCP clients, and `up` in the snapshot.

use postern_io::device::{Carrier, Device};
use tracing::{info, warn};

use crate::netlink::Configurator;

/// The links as last passed on.
pub struct Carriers {
    links: Vec<Link>,
}

struct Link {
    name: String,
    device: Device,
    told: Carrier,
    /// Whether passing it on failed the last time: said once.
    failing: bool,
}

impl Carriers {
    /// The links of these interfaces, by name, whose TAPs were just opened and so have carrier.
    pub fn new(interfaces: impl IntoIterator<Item = (String, Device)>) -> Self {
        let link = |(name, device)| Link { name, device, told: Carrier::Up, failing: false };
        Self { links: interfaces.into_iter().map(link).collect() }
    }

    /// Looks at the cards and tells the TAPs what is new. A card that is gone has no link.
    pub fn follow(&mut self) {
        self.follow_with(
            |device| device.carrier().unwrap_or(Carrier::Down),
            |name, carrier| {
                let mut kernel = Configurator::open().map_err(|e| e.to_string())?;
                kernel.set_carrier(name, carrier).map_err(|e| e.to_string())
            },
        );
    }

    fn follow_with(
        &mut self,
        look: impl Fn(&Device) -> Carrier,
        mut tell: impl FnMut(&str, Carrier) -> Result<(), String>,
    ) {
        for Link { name, device, told, failing } in &mut self.links {
            let carrier = look(device);
            if carrier == *told {
                continue;
            }
            match tell(name, carrier) {
                Ok(()) => {
                    (*told, *failing) = (carrier, false);
                    let word = if carrier == Carrier::Up { "carrier" } else { "no carrier" };
                    info!("interface {name}: {word} on {}", device.name);
                }
                Err(error) if !*failing => {
                    *failing = true;
                    warn!("interface {name}: {error}");
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_told_once_of_each_change_and_again_until_it_is_taken() {
        let device =
            |name: &str| Device { name: name.to_owned(), ifindex: 1, mac: [2; 6], mtu: 1500 };
        let named = |name: &str, nic| (name.to_owned(), device(nic));
        let mut carriers = Carriers::new([named("lan", "eth0"), named("wan", "eth1")]);
        let mut told = Vec::new();
        for (eth1, refused, expected) in [
            (Carrier::Up, false, vec![]),
            (Carrier::Down, true, vec![("wan", Carrier::Down)]),
            (Carrier::Down, false, vec![("wan", Carrier::Down)]),
            (Carrier::Down, false, vec![]),
            (Carrier::Up, false, vec![("wan", Carrier::Up)]),
            (Carrier::Up, false, vec![]),
        ] {
            told.clear();
            carriers.follow_with(
                |device| if device.name == "eth1" { eth1 } else { Carrier::Up },
                |name, carrier| {
                    told.push((name.to_owned(), carrier));
                    if refused { Err("not now".to_owned()) } else { Ok(()) }
                },
            );
            let expected: Vec<_> = expected.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
            assert_eq!(told, expected);
        }
    }
}
