// Package lock is the deployment lock: a node that has it runs a service only where a
// deployer, whose key no manager holds, has signed exactly that.
//
// It owns the chain of links that says whose signatures count, the statements that
// deployers sign, and what a node keeps of both (Trust). Each node judges by itself:
// it verifies the whole chain, and the statement against the very task that it is told
// to run. Nothing that a manager says takes part in that but the signed bytes.
//
// It refuses what it does not know: algorithms, fields, a link too much, a signature
// that is not needed. Every refusal is a *Refusal, which names its rule.
//
// It holds no private key: who signs hands in a crypto.Signer. Signing, verifying and
// matching do no I/O; Trust alone has a file. rund links this package, so it reaches
// neither the store nor pki.
//
//	chain, err := lock.ParseChain(text)
//	signed, err := lock.Sign(chain, statement, signer)
//	err = trust.Admit(now, task, signed) // on the node, before anything is started
package lock
