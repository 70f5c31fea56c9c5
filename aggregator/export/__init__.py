"""Exports: chosen readings with what proves them, for whoever the log's operator gives them to.

selection   which readings: a device's, or a patient's by the assignments that stand
evidence    what they are verified by: policy, registrars, the status of each key
proven      each reading verified, or refused; nothing else reaches a file
archive     a zip of proof files            fhir, fhir_kinds, fhir_observation, fhir_provenance   a FHIR R4 bundle
output      the file, whole or not at all                                      parquet   a Parquet file
"""
