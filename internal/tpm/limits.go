package tpm

import "time"

const (
	// MaxSecret bounds what is sealed, in bytes: what every TPM takes.
	MaxSecret = 128
	// MaxAuth bounds the word that a sealed secret may ask for, in bytes: as long
	// as a SHA-256.
	MaxAuth = 32
	// MaxBlob bounds a sealed secret in bytes.
	MaxBlob = 1024
	// MaxPublic bounds a key's public area in bytes: that of an RSA-2048 key has
	// 314.
	MaxPublic = 512
	// MaxCertificate bounds the certificate of an EK.
	MaxCertificate = 4096
	// MaxCertificates bounds the EK's certificate and those of its issuers that
	// the TPM holds.
	MaxCertificates = 4
	// MaxCredential bounds each half of a credential in bytes.
	MaxCredential = 512
	// MaxQuote and MaxSignature bound evidence in bytes.
	MaxQuote     = 512
	MaxSignature = 256
	// SecretLen is the length of a challenge.
	SecretLen = 32
	// PCRs is how many registers there are; PCRLen the length of a value.
	PCRs, PCRLen = 24, 32

	// maxMessage bounds a command or an answer: TPM2_MAX_COMMAND_SIZE.
	maxMessage = 4096
	// maxNVRead is what is read of a certificate at a time.
	maxNVRead = 512
	// commandTime bounds one command on a socket. The kernel bounds those on a
	// device.
	commandTime = 2 * time.Minute
	// overdue is after how long a TPM that was asked something is taken for one that
	// hangs: what takes longest, making an RSA key, takes some ten seconds.
	overdue = time.Minute
	// dialTime bounds connecting to a socket.
	dialTime = 10 * time.Second
	// openTime bounds how long a TPM may take to say what it is.
	openTime = 30 * time.Second
)
