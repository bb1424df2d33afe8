package control

import (
	"context"
	"time"
)

// Cluster is what the leader knows of its cluster at one moment: its store, its
// sessions, and what it asks the other managers. Whoever fills it in copies facts and
// judges nothing. It has names, times and counts, and nothing that is secret.
//
// It is the leader's word. What a node says of itself in it (version, clock, slots,
// the key of its store) is that node's, by way of the leader.
type Cluster struct {
	Now time.Time // by the cluster's clock

	Members []Member // that were not removed
	Shared  []Shared
	Level   uint32 // of the store, as all managers understand it
	Here    uint32 // and as the leader would

	Authorities []Authority // in force
	Roots       [][]byte    // SHA-256 of the roots among them
	Lists       []RevocationList
	Exposed     []string // managers that left in other hands with a root key that still counts
	Alarms      []Alarm
	Replacing   time.Time // since when a root is being replaced; zero: none is
	External    *External // signs workers; nil: the cluster does

	Tokens    []Token // that still admit somebody
	Slots     []Slot
	SlotEpoch uint64

	Secrets  []Secret
	Networks []Network
	Services []Service
	// ImageRules are those of the cluster's image policy; none: there is no policy.
	ImageRules   []ImageRule
	ImagesUnread error // why the policy is not understood

	// AuditLog has every manager read its audit log, and compares.
	AuditLog func(context.Context) ([]ManagerLog, error)
	// Signed is what the newest checkpoint of the audit log is of.
	Signed func(context.Context) (Checkpoint, error)
	// Witnessed are those outside of the cluster that cosign it, and what they said.
	Witnessed func(context.Context) ([]Witness, error)
	// Doors is how the other managers' ports behave towards strangers and towards the
	// leader. It is asked once.
	Doors func() ([]Door, error)
	// LastBackup is when a backup was made last; zero: none was, as far back as since.
	LastBackup func(ctx context.Context, since time.Time) (time.Time, error)
}

// Member is a node as its record and its session have it.
type Member struct {
	ID, Name  string
	Manager   bool
	Connected bool
	Up        bool // on record as up
	Host      string
	Replaced  bool // its session was replaced from another address while it lived
	Version   string

	NotAfter  time.Time // of its certificate
	Stale     bool      // that is of a CA of before
	Forgotten bool      // so long before that nobody takes it

	// Trusts are the SHA-256 of the roots that it says it trusts; nil: it said nothing.
	Trusts [][]byte
	// Probed: it said what its rund can do. Lock is what it says of its deployment lock: the
	// newest link that it follows. Empty: it has none. Waits: it has seen no chain yet, and
	// runs nothing.
	Probed bool
	Lock   string
	Waits  bool

	Clocked  bool          // something is known of its clock
	ClockOff time.Duration // at least, by what is known of it
	Tasks    int           // that may have a container there

	// Of managers.
	Voter, Locked bool
	Zone          string
	SlotEpoch     uint64
	Lacks         int // slots
	StoreKeyMade  time.Time
	StoreKeyWrong string
}

// Shared is an address at which several nodes are.
type Shared struct {
	Address string
	Nodes   []string
}

// Alarm is a certificate that was shown and that nobody gave out.
type Alarm struct {
	Node, Serial, Source string
	At                   time.Time
}

// Authority is a certificate authority of the cluster.
type Authority struct {
	ID        string // as RevocationList.CA
	Root      bool
	NotBefore time.Time
	NotAfter  time.Time
}

// RevocationList is the newest of one CA.
type RevocationList struct {
	CA         string
	NextUpdate time.Time
}

// External is a CA outside of the cluster.
type External struct {
	URL, Failure string
}

// Token is a join token that is in force.
type Token struct {
	ID      string
	Manager bool
	Minted  time.Time
	Expires time.Time // zero: never
}

// Slot is one that opens managers.
type Slot struct {
	Name   string
	File   bool // in a file: without anybody
	People bool // by a key or shares that people keep
	Made   time.Time
}

// Secret is one without its value.
type Secret struct {
	Name    string
	Version uint64    // the current one
	Made    time.Time // zero: not known
}

// ImageRule is one of the cluster's image policy.
type ImageRule struct {
	Name     string
	Unsigned bool // it admits images without any signature or attestation
}

// Network is one that an operator made.
type Network struct {
	Name     string
	Driver   string
	InMesh   bool // what crosses nodes does so in the mesh, or nothing does
	Denies   bool // by default, between services
	Services int  // on it
}

// Service is what one asks for.
type Service struct {
	Name                  string
	Image, Digest         string
	ReadOnly              bool
	MemoryBytes, NanoCPUs int64 // its tasks' bounds; 0: none
	Mounts                []Mount
	Ports                 []Port
}

// Mount is a directory of the node.
type Mount struct {
	Source   string
	ReadOnly bool
}

// Port is a published one.
type Port struct {
	Published uint32
	Host      string // the address of the node; empty: all
}

// Door is a manager's port, as another manager sees it.
type Door struct {
	Manager  string
	Away     string   // why it could not be looked at
	Admitted []string // strangers that were answered
	Group    string   // the key exchange that was agreed on
	OnRecord bool     // the key of the certificate that was shown
	NotAfter time.Time
}

// Checkpoint is a root of the audit log that managers signed.
type Checkpoint struct {
	Size     uint64    // of how many records it is; 0: there is none
	Records  uint64    // how many there are
	Unsigned time.Time // when the first was made that it is not of; zero: it is of all
	Wrong    string    // what is kept as the newest is none of this log
	Dissents []Dissent
}

// Witness is one outside of the cluster.
type Witness struct {
	Name    string
	Size    uint64    // how many records it cosigned last
	At      time.Time // when, by its clock; zero: never
	Lacks   time.Time // when the first record was made that it did not cosign, or the witness was set after that; zero: it has all
	Failure string    // why it cosigns nothing now
	Alarm   string    // it knows another log
	AlarmAt time.Time
}

// Dissent is a manager that did not sign.
type Dissent struct {
	Manager, Reason string
}

// ManagerLog is what a manager has of the audit log.
type ManagerLog struct {
	Manager string
	Away    string // why it did not answer
	Wrong   string // what is wrong with what it has
	Missing uint64 // older segments
	Forked  bool
}
