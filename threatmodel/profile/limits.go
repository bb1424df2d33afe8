package profile

// Bounds of what is read: a user's file costs no more than an error.
const (
	maxFile         = 1 << 20 // bytes of one file
	maxText         = 1000    // bytes of one text
	maxRequirements = 2000    // of a profile, with what it includes
	maxControls     = 200     // of one requirement
	maxDepth        = 8       // profiles that include each other
)
