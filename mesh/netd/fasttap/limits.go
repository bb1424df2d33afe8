package fasttap

const (
	// Packets in one Read or Write: wireguard-go's own batch.
	batchSize = 128

	// The longest IP packet, and the longest headers in front of a payload that
	// are merged: IPv4, UDP, VXLAN, Ethernet, IPv6, TCP with all its options.
	maxPacket  = 65535
	maxHeaders = 20 + 8 + 8 + 14 + 40 + 60

	// Flows that are being merged at a time; one more ends the oldest.
	maxOpen = 16

	// Datagrams in one merged UDP packet: the kernel's own bound.
	maxDatagrams = 64

	// Datagrams that the kernel takes or gives as one (UDP GSO and GRO), and the
	// bytes of all of them together.
	maxSegments       = 64
	maxSegmentsBytes4 = maxPacket - 20 - 8
	maxSegmentsBytes6 = maxPacket - 40 - 8

	// Messages that one system call receives.
	receiveCalls = batchSize / maxSegments

	// A segment size below this says nothing of the next large packet's.
	minPredicted = 512

	// Attempts to find a port that is free for IPv4 and IPv6.
	maxBindAttempts = 100

	// What a socket holds while nobody reads: as wireguard-go asks for.
	socketBuffer = 7 << 20

	// MTU of the interface: what IPv4 and IPv6 need at least, and what a
	// WireGuard message of 65535 bytes can carry at most.
	minMTU = 576
	maxMTU = 65535 - 32
)
