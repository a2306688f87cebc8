"""The shipped test kit: fakes, contract suites, and a real Apache Kafka broker."""
