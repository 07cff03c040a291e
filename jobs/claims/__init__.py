"""The paper's claims, measured: what is compared, the trainings, the scores, the verdicts."""
