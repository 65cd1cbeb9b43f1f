//! The price table: one dated file, one row an item, each with its source.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Name that the model looks up.
    pub item: String,
    /// USD a unit.
    pub price: f64,
    /// What a unit is.
    pub unit: String,
    /// Where it was published.
    pub source: String,
    /// When.
    pub published: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    region: String,
    /// For whoever reads the file: every price is in USD.
    #[serde(rename = "currency")]
    _currency: Usd,
    dated: String,
    rows: Vec<Price>,
}

/// The one currency that bills are made in.
#[derive(Deserialize)]
enum Usd {
    #[serde(rename = "USD")]
    Usd,
}

/// Prices of one region at one date.
#[derive(Clone, Debug)]
pub struct Prices {
    /// Region they hold for.
    pub region: String,
    /// Date of the table.
    pub dated: String,
    rows: BTreeMap<String, Price>,
}

/// Why a price table can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// Not JSON, or not this shape.
    #[error(
        "the price file is not a JSON object of schema, region, currency, dated, rows of item, price, unit, source, published: {0}"
    )]
    Shape(#[from] serde_json::Error),
    /// Of another schema.
    #[error("the price file has schema {found}; this release reads 1")]
    Schema {
        /// What it says.
        found: u32,
    },
    /// A row the model needs is not there.
    #[error("the price file has no row `{item}`; copy it from the bundled file")]
    Missing {
        /// Which.
        item: &'static str,
    },
    /// An item that has two prices.
    #[error("the price file has two rows `{item}`; keep one")]
    Twice {
        /// Which.
        item: String,
    },
    /// A price that is negative or not finite.
    #[error("the price of `{item}` is {price}; it must be a number of zero or more")]
    Number {
        /// Which.
        item: String,
        /// What it was.
        price: f64,
    },
}

/// Every item the model looks up. A file lacking one is refused whole, so that no bill is half made.
pub(crate) const ITEMS: [&str; 19] = [
    "function_gb_second",
    "function_request",
    "s3_put",
    "s3_get",
    "s3_gb_month",
    "express_put",
    "express_get",
    "express_upload_gb",
    "express_retrieval_gb",
    "express_gb_month",
    "cache_t3_micro_hour",
    "cache_t3_small_hour",
    "cache_t3_medium_hour",
    "cache_m5_large_hour",
    "serverless_redis_gb_hour",
    "serverless_redis_ecpu",
    "serverless_valkey_gb_hour",
    "serverless_valkey_ecpu",
    "between_zones_gb",
];

impl Prices {
    /// The table that comes with this release.
    pub fn bundled() -> Self {
        Self::from_json(include_str!("../prices.json")).expect("the bundled price table is checked by a test")
    }

    /// Reads a table.
    ///
    /// # Errors
    /// Another shape or schema, a missing row, a price that is not a number of zero or more.
    pub fn from_json(text: &str) -> Result<Self, PricesError> {
        let file: File = serde_json::from_str(text)?;
        if file.schema != 1 {
            return Err(PricesError::Schema { found: file.schema });
        }
        if let Some(row) = file.rows.iter().find(|row| !row.price.is_finite() || row.price < 0.0) {
            return Err(PricesError::Number { item: row.item.clone(), price: row.price });
        }
        let mut rows = BTreeMap::new();
        for row in file.rows {
            if let Some(first) = rows.insert(row.item.clone(), row) {
                return Err(PricesError::Twice { item: first.item });
            }
        }
        if let Some(item) = ITEMS.into_iter().find(|item| !rows.contains_key(*item)) {
            return Err(PricesError::Missing { item });
        }
        Ok(Self { region: file.region, dated: file.dated, rows })
    }

    /// Every row, by name.
    pub fn rows(&self) -> impl Iterator<Item = &Price> {
        self.rows.values()
    }

    /// The price of one of [`ITEMS`].
    pub(crate) fn of(&self, item: &'static str) -> f64 {
        self.rows.get(item).expect("a table without a row the model needs was refused when it was read").price
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_table_has_every_row_and_names_its_sources() {
        let prices = Prices::bundled();
        assert_eq!(prices.rows().count(), ITEMS.len());
        assert!(prices.rows().all(|row| !row.source.is_empty() && !row.published.is_empty() && !row.unit.is_empty()));
    }

    #[test]
    fn a_table_without_a_row_names_it() {
        let text = include_str!("../prices.json").replace("s3_get", "s3_got");
        let error = Prices::from_json(&text).expect_err("s3_get is missing");
        assert!(error.to_string().contains("`s3_get`"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_table_is_named() {
        let bundled = include_str!("../prices.json");
        let cases = [
            (bundled.replacen("\"price\": 0.000005", "\"price\": -0.000005", 1), "`s3_put` is -0.000005"),
            (bundled.replacen("\"unit\"", "\"unite\"", 1), "unite"),
            (bundled.replacen("\"schema\": 1", "\"schema\": 2", 1), "schema 2"),
            (bundled.replacen("USD", "EUR", 1), "EUR"),
            (bundled.replacen("s3_get\"", "s3_put\"", 1), "two rows `s3_put`"),
            ("prices".to_owned(), "not a JSON object"),
        ];
        for (text, words) in cases {
            let error = Prices::from_json(&text).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
