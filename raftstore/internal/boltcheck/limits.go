package boltcheck

// The file format of bbolt, version 2. A meta page is a page's header, then magic,
// version, page size and flags (4 bytes each), root with its sequence (16), list
// of free pages, first page beyond all, transaction id and checksum (8 each).
const (
	magic        = 0xED0CDAED
	version      = 2
	pageHeader   = 16
	elementBytes = 16
	bucketHeader = 16 // root and sequence
	metaPages    = 2
	metaSum      = 56 // what the checksum covers
	metaBytes    = pageHeader + metaSum + 8

	flagBranch, flagLeaf, flagFree = 0x01, 0x02, 0x10
	flagBucket                     = 1      // of an element
	manyFree                       = 0xffff // a count that stands before the list
)

// Bounds.
const (
	minPage, maxPage = 1 << 10, 64 << 10
	maxKey           = 32768
	// maxOverflow bounds a page with what overflows from it in bytes. bbolt leaves
	// four values beside each other at most that do not fit a page, and an entry of
	// the log has some 2 MiB; a list of as many bytes names the free pages of 32 GiB.
	maxOverflow = 64 << 20
	// maxLevels is deeper than a tree of all pages that a disk holds.
	maxLevels = 48
)
