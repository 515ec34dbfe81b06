//! The customers that the simulator holds in memory, keyed by email.
//!
//! Invariant: bounded. At most 10,000 customers and 512 MiB of image text; beyond that the customer
//! created longest ago is forgotten, so that a long load test goes on.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::behaviour::{EmailFolding, Status};

/// The text fields of `target`, in the order of the vendor's samples.
pub(super) const ATTRIBUTES: [&str; 9] = [
    "fn", "ln", "addr", "city", "state", "zip", "dob", "email", "phone",
];

/// One customer. A clone shares the texts.
#[derive(Clone)]
pub(super) struct Customer {
    /// The number in `customer_link`.
    pub(super) id: u64,
    pub(super) reference: Arc<str>,
    pub(super) status: Status,
    /// Values in the order of [`ATTRIBUTES`].
    pub(super) attributes: [Arc<str>; ATTRIBUTES.len()],
    pub(super) front: Option<Arc<str>>,
    pub(super) back: Option<Arc<str>>,
}

impl Customer {
    fn image_bytes(&self) -> usize {
        let bytes = |image: &Option<Arc<str>>| image.as_ref().map_or(0, |text| text.len());
        bytes(&self.front) + bytes(&self.back)
    }
}

/// All customers.
pub(super) struct Customers {
    by_email: HashMap<String, Customer>,
    /// Keys in the order in which they were created.
    order: VecDeque<String>,
    image_bytes: usize,
    next_id: u64,
}

const MAX_CUSTOMERS: usize = 10_000;
const MAX_IMAGE_BYTES: usize = 512 * 1024 * 1024;

impl Default for Customers {
    fn default() -> Self {
        Self {
            by_email: HashMap::new(),
            order: VecDeque::new(),
            image_bytes: 0,
            next_id: 100_001,
        }
    }
}

/// The key of an email under this folding.
pub(super) fn key(email: &str, folding: EmailFolding) -> String {
    match folding {
        EmailFolding::Exact => email.to_owned(),
        EmailFolding::Lowercase => email.to_lowercase(),
    }
}

impl Customers {
    pub(super) fn len(&self) -> usize {
        self.by_email.len()
    }

    pub(super) fn find(&self, key: &str) -> Option<&Customer> {
        self.by_email.get(key)
    }

    /// An id that no customer had yet.
    pub(super) fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Stores a customer under its key, in place of the one that was there.
    pub(super) fn store(&mut self, key: String, customer: Customer) {
        self.image_bytes += customer.image_bytes();
        match self.by_email.insert(key.clone(), customer) {
            Some(old) => self.image_bytes -= old.image_bytes(),
            None => self.order.push_back(key),
        }
        self.shrink(MAX_CUSTOMERS, MAX_IMAGE_BYTES);
    }

    fn shrink(&mut self, customers: usize, image_bytes: usize) {
        while self.by_email.len() > customers || self.image_bytes > image_bytes {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(old) = self.by_email.remove(&oldest) {
                self.image_bytes -= old.image_bytes();
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_email.clear();
        self.order.clear();
        self.image_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(id: u64, image: usize) -> Customer {
        Customer {
            id,
            reference: "".into(),
            status: Status::Pass,
            attributes: std::array::from_fn(|_| "".into()),
            front: Some("x".repeat(image).into()),
            back: None,
        }
    }

    #[test]
    fn the_customer_created_longest_ago_is_forgotten_first() {
        let mut customers = Customers::default();
        for name in ["a", "b", "c"] {
            customers.store(name.to_owned(), customer(1, 100));
        }
        customers.store("a".to_owned(), customer(2, 50));
        assert_eq!(customers.image_bytes, 250);
        customers.shrink(3, 249);
        assert!(customers.find("a").is_none());
        assert_eq!((customers.len(), customers.image_bytes), (2, 200));
        customers.shrink(1, 1_000);
        assert!(customers.find("b").is_none() && customers.find("c").is_some());
        customers.clear();
        assert_eq!((customers.len(), customers.image_bytes), (0, 0));
    }

    #[test]
    fn the_number_of_customers_is_bounded() {
        let mut customers = Customers::default();
        for index in 0..MAX_CUSTOMERS + 3 {
            customers.store(index.to_string(), customer(1, 0));
        }
        assert_eq!(customers.len(), MAX_CUSTOMERS);
        assert!(customers.find("2").is_none() && customers.find("3").is_some());
    }
}
