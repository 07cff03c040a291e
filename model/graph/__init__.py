"""sg2im's graph network, the bank's frozen encoder and vocabularies; no model is known here."""
