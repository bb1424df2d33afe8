package control

// JudgeNodes is judgeNodes.
var JudgeNodes = (*Server).judgeNodes
