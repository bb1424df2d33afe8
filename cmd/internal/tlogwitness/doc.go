// Package tlogwitness submits checkpoints to witnesses outside of the cluster, by C2SP's
// tlog-witness protocol: a checkpoint goes there with the proof that it goes on from the
// one that the witness cosigned last, and a cosignature comes back.
//
// It carries and reads, strictly and within bounds, and decides nothing: which
// checkpoint is shown, what an answer means for the log, and whether a cosignature is
// the witness's is for its caller to say. It holds no key, follows no redirect, asks no
// proxy, and lets nothing that a witness wrote into an error, so that whoever answers at
// an address is not shown to who reads those.
package tlogwitness
