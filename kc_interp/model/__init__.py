"""The transformer: its parameters, its one functional forward, exact patches, and the bridge to TransformerLens."""
