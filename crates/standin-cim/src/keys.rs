//! Where an instance is, from what it says: the path made of the keys of its class.

use crate::{Class, Instance, Key, KeyValue, Keys, ObjectPath, Text};

impl Class {
    /// The path of an instance of this class, relative to its namespace.
    ///
    /// # Errors
    /// The name of the first key that is null or cannot be one.
    pub fn path_of(&self, instance: &Instance) -> Result<ObjectPath, Text> {
        let keys = self.keys().map(|key| match instance.value(&key.name).and_then(KeyValue::of) {
            Some(value) => Ok(Key { name: key.name.clone(), value }),
            None => Err(key.name.clone()),
        });
        let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
        let mut path = ObjectPath::new(self.name.clone(), Vec::new());
        path.keys = if keys.is_empty() { Keys::Singleton } else { Keys::Named(keys) };
        Ok(path)
    }
}
