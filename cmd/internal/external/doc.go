// Package external has a CA outside of the cluster, a step-ca, sign what keyd
// ordered.
//
// It is the courier between the two and decides nothing: the one-time token of an
// order says which request, which names and for how long, and is keyd's; whether the
// answer is what was ordered is for keyd to say. So it holds no key and no password,
// and whoever takes it over has nothing certified that keyd did not approve.
//
// An order is an apiv1.CertificateAuthorityService of smallstep's, good for one
// certificate. The service of step-ca that comes with that interface is not used: it
// signs its tokens itself, with a key or a password that redoubtd would have to hold,
// can neither bind the request nor be given a deadline, and brings all of step-ca
// along.
package external
