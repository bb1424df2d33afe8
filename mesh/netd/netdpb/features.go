package netdpb

// FeatureRules is what a node shows of its rules for networks: present, they are as
// netd made them.
const FeatureRules = "network rules"
