// Package quorum gives the managers of a cluster their votes.
//
// It runs on the leader. What there should be is the list of managers that its
// user hands in; what there is, is raft's configuration; and the difference is
// worked off one step at a time. raft-autopilot keeps the health of each server
// and applies promotions and demotions; the rules are here.
//
//   - A manager that is new is added without a vote. It gets one when it is
//     up, holds nearly all entries, and has been so for stableTime: one that
//     never comes up costs the quorum nothing.
//   - At most MaxVoters vote. Others follow and step in.
//   - A voter that was silent for DemoteAfter loses its vote where that lets the
//     rest bear more losses than before, and never below MinVoters voters. It
//     stays a member, and its vote comes back with it.
//   - A server that is no manager any more is removed, at once. That is the only
//     way out of the configuration: to be dead is not to be removed, since a
//     removal is a matter of trust and an operator's to decide.
//   - A leader that is no manager any more hands over first.
//
// All of it goes through raft's own single-server changes, so whatever is
// decided here can cost availability and never safety.
package quorum
