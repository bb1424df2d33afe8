package autolock

import (
	"crypto/cipher"
	"crypto/fips140"
)

// A suite is how the nonces of a record's AES-256-GCM are chosen, and with what
// they are bound. Which one a Sealer seals by goes by the process, and either opens
// the other's records: to open is the same call for both, and one that Go's FIPS
// 140-3 module approves of.
type suite byte

const (
	// suiteCounted has a counter of the records under a subkey, so that no nonce
	// repeats.
	suiteCounted suite = 1
	// suiteDrawn has a random nonce from within the module, which lets nobody else
	// choose one where calls outside of it are refused. It is bounded so that two
	// nonces under a subkey are equal once in 2^49 subkeys.
	suiteDrawn suite = 2
)

// ownSuite is what this process seals by. Versions before know suiteCounted alone,
// so what need not be sealed by the other is not.
func ownSuite() suite {
	if fips140.Enforced() {
		return suiteDrawn
	}
	return suiteCounted
}

func (s suite) known() bool { return s == suiteCounted || s == suiteDrawn }

// records is how many are sealed under one subkey.
func (s suite) records() uint64 {
	if s == suiteDrawn {
		return maxDrawnRecords
	}
	return maxCountedRecords
}

// info begins what a subkey is derived for, so that none is of two suites.
func (s suite) info() string {
	if s == suiteDrawn {
		return "redoubt seal v2\x00"
	}
	return "redoubt seal v1\x00"
}

// bound is the part of a record's header that is authenticated as data. The nonce
// is authenticated by being the nonce, and is not known yet where it is drawn.
func (s suite) bound(record []byte) []byte {
	if s == suiteDrawn {
		return record[:offNonce]
	}
	return record[:headerLen]
}

// sealing is the AEAD that seals.
func (s suite) sealing(block cipher.Block) (cipher.AEAD, error) {
	if s == suiteDrawn {
		return cipher.NewGCMWithRandomNonce(block)
	}
	return cipher.NewGCM(block)
}
