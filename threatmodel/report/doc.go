// Package report holds what came of judging a cluster by a profile, and writes it
// for people and for tools.
//
// New makes a Report of a profile and of results, and decides for each requirement
// what its controls say of it. Only what was judged, in full, and passed is a pass.
// Write writes it in one of Formats; every form has all findings, and each writer
// goes over them once and holds none of its text, so that a report of ten thousand
// findings costs what its findings cost. Read takes the JSON form back, strictly,
// and Compare says what is new since another one.
//
// Evidence comes from machines that may lie and from names that anybody may
// choose. It is cut to bounds, is one line each, has forms of keys taken out, and is
// escaped by each writer as its form wants.
package report
