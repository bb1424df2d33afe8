// Package tpm speaks to a machine's TPM 2.0, and judges what another machine
// says that its TPM said.
//
// Of a TPM it uses four things, each for one purpose:
//
//   - the endorsement key (EK), which is the chip: made from a seed that never
//     changes, certified by the maker where the chip holds a certificate. It
//     opens credentials, and can do nothing else;
//   - an attestation key (AK), a restricted signing key that signs only what the
//     TPM itself wrote. It is made from the owner's seed by a fixed template, so
//     that nothing of it is kept;
//   - a storage key, likewise, under which secrets of up to MaxSecret bytes are
//     sealed: the blob opens on this TPM alone, and where registers were named,
//     only while they have the values of the time of sealing;
//   - platform configuration registers (PCR) of the SHA-256 bank, in which the
//     firmware measures what was started.
//
// A node proves by two steps that a request is of its TPM. MakeCredential seals
// a challenge to an EK and to the name of an AK: only a TPM that holds both opens
// it (Activate). Attest then has the AK sign a statement about the request,
// with the registers asked for; CheckEvidence verifies it. EK and AK are bound
// by the first step, AK and request by the second.
//
// One process of a node opens the device, which is keyd. The connection is kept,
// so that a sandbox may be put on afterwards. A device is a character device
// (/dev/tpmrm0, the kernel's resource manager) or a unix socket on which
// somebody speaks the TPM's command interface, as swtpm does. Operations are one
// at a time; each leaves no object in the TPM.
//
// What comes from a TPM is parsed as strictly as what comes from a stranger: the
// verifying half (verify.go, endorsement.go) gets it from one. It is bounded, in
// one form only, and fuzzed.
//
// This package knows nothing of clusters: who is admitted, by which EK and in
// which state, is for its callers to say.
package tpm
