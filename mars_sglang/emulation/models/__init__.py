"""What ``SGLANG_EXTERNAL_MODEL_PACKAGE`` points at: SGLang imports each module here and takes its ``EntryClass``."""
