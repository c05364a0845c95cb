"""The names of files."""

KEY, CERTIFICATE, CRL = "ca.key", "ca.pem", "crl.pem"
BUNDLE, INDEX, LOG = "ca-bundle.pem", "index.json", "log"
ISSUED, PREVIOUS, NEXT = "issued", "previous", "next"
DEVICE_KEY, DEVICE_CERTIFICATE, DEVICE_REQUEST = "device.key", "device.pem", "device.csr"
