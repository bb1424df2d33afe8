// Package profile holds what others, and we, require of a cluster, as data: each
// requirement with the controls that judge it and how much of it they cover.
//
// A profile is one YAML file, built in or a user's own, and nothing but data: a
// new one needs no code. It is read strictly. A control that does not exist, a
// coverage without the controls that it needs, an id given twice and a profile
// that includes itself are errors that name the file and the line. What no control
// judges says so, and why: it is "none", which is never a pass, or "outside",
// which is not the cluster's to do.
//
// Titles of the built-in profiles are in our own words. The documents that they
// stand for have the whole text, and the last word.
package profile
