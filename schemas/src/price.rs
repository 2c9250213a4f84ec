//! A price as people write it in a file: `1.50`, in US dollars.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// US dollars, counted in cents. Written `1.50`; a third place behind the point is refused, as it would be lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String)]
pub struct Price(pub u32);

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl FromStr for Price {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no price; write US dollars with at most two places, such as `1.50`");
        let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 2 {
            return Err(wrong());
        }
        let cents: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        whole.checked_mul(100).and_then(|whole| whole.checked_add(cents)).map(Self).ok_or_else(wrong)
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Price;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a price in US dollars, such as `1.50`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Price, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, dollars: u64) -> Result<Price, E> {
                self.visit_str(&dollars.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, dollars: f64) -> Result<Price, E> {
                self.visit_str(&dollars.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Price {
    fn schema_name() -> Cow<'static, str> {
        "Price".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number"], "minimum": 0,
            "description": "US dollars, with at most two places: 1.50", "examples": ["1.50"]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_read_to_the_cent_or_not_at_all() {
        for (text, cents, shown) in
            [("1.50", 150, "1.50"), ("0.75", 75, "0.75"), ("2.5", 250, "2.50"), ("3", 300, "3.00")]
        {
            let price: Price = text.parse().unwrap();
            assert_eq!((price.0, price.to_string().as_str()), (cents, shown), "{text}");
            assert_eq!(serde_json::from_str::<Price>(text).unwrap(), price, "{text}");
            assert_eq!(serde_json::from_value::<Price>(serde_json::to_value(price).unwrap()).unwrap(), price);
        }
        for text in ["", ".", "1.", ".5", "-1", "1.505", "$1.50", "1,50", "inf", "42949672.96", "99999999999"] {
            assert!(text.parse::<Price>().is_err(), "{text}");
        }
    }
}
