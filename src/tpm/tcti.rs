//! The TCTI loader of tpm2-tss, for every conf string that is not ours (tabrmd and others). The
//! one file of this room with `unsafe`.
