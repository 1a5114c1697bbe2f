"""diptych models as transformers pipelines."""
