package schedulerpb

// MaxMeshPeers is how many peers a MeshState has at most.
const MaxMeshPeers = 256
