"""One parquet file per trial: schema, store, overlays."""
