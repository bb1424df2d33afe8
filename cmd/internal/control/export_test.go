package control

// JudgeNodes is judgeNodes.
var JudgeNodes = (*Server).judgeNodes

// Pack and Unpack are pack and unpack.
var (
	Pack   = pack
	Unpack = unpack
)

// CosignedBy: see cosignedBy.
var CosignedBy = cosignedBy
