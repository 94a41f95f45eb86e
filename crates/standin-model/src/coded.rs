//! One macro for the enums of the model that have a number, a name for programs (serde, snake case) and words
//! for people. All three come from one line per member, so they cannot drift apart.

macro_rules! coded {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$doc:meta])* $variant:ident = $code:literal, $words:literal; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $( $(#[$doc])* $variant = $code, )+
        }

        impl $name {
            /// Every member, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The number of the management API.
            #[must_use]
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// The member with this number, if there is one.
            #[must_use]
            pub fn from_code(code: u16) -> Option<Self> {
                Self::ALL.iter().copied().find(|member| member.code() == code)
            }

            /// The words for people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $words, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

pub(crate) use coded;

/// Checks of a coded enum that every one of them must pass.
#[cfg(test)]
macro_rules! check_coded {
    ($name:ty) => {{
        let mut words = std::collections::BTreeSet::new();
        let mut json = std::collections::BTreeSet::new();
        for member in <$name>::ALL.iter().copied() {
            assert_eq!(<$name>::from_code(member.code()), Some(member));
            assert!(words.insert(member.name()), "{member} is there twice");
            let text = serde_json::to_string(&member).expect("a unit variant");
            assert_eq!(serde_json::from_str::<$name>(&text).expect("own JSON"), member);
            assert!(json.insert(text));
        }
        assert!(<$name>::ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
        assert_eq!(<$name>::from_code(u16::MAX), None);
    }};
}

#[cfg(test)]
pub(crate) use check_coded;
